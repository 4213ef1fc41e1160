//! Shared buffers: C's address spaces, handles, leases, and each refusal.

use super::*;
use crate::audit::*;
use crate::buffer::Direction;
use crate::clients::*;
use crate::share::*;
use crate::sharing::*;
use crate::space::Space;
use carveout::addr::{PhysAddr, VirtAddr};
use carveout::fake::Fake;
use carveout::machine::Mmu;
use carveout::setup::{RAM, RAM_BYTES};
use carveout::vm::desc::{L1Desc, L2Desc};
use carveout::vm::user::{Asid, UserAccess, UserRoot};
use core::cell::Cell;
use std::format;
use std::string::ToString;
use std::vec::Vec;

const READ: u32 = Right::Read as u32;
const WRITE: u32 = Right::Write as u32;
const BOTH: u32 = READ + WRITE;
const RESHARE: u32 = Right::Reshare as u32;
const FROM_DEVICE: u32 = Direction::CarveoutFromDevice as u32;
const TO_DEVICE: u32 = Direction::CarveoutToDevice as u32;
const PAGE: usize = 4096;
const CACHED: u32 = View::Cached as u32;
const LIMITS: ShareLimits = ShareLimits { clients: 3, handles: 6, buffers: 2, leases: 2 };
const NOBODY: Client = Client { id: 0 };
const NOTHING: Share = Share { id: 0 };

/// A process of a kernel in C: a first-level table, and a second-level one for the addresses of one MiB.
struct Process {
    fake: &'static Fake,
    root: u32,
    asid: Asid,
    /// The page that is reserved next.
    next: Cell<u32>,
    /// Pages that are reserved.
    reserved: Cell<u32>,
}

const FIRST: u32 = 0x0010_0000;

impl Process {
    fn new(fake: &'static Fake, number: u8) -> &'static Self {
        let root = 0x6010_0000 + 0x4000 * u32::from(number);
        let table = L1Desc::user_table(PhysAddr::new(root + 0x2000), false);
        fake.publish(PhysAddr::new(root + 4 * (FIRST >> 20)), &[table.raw()]);
        let asid = Asid::new(number).unwrap();
        // SAFETY: the fake judges it (I1).
        fake.begin_user(unsafe { UserRoot::assume(PhysAddr::new(root), asid) });
        let (next, reserved) = (Cell::new(1), Cell::new(0));
        Box::leak(Box::new(Self { fake, root, asid, next, reserved }))
    }

    fn space(&'static self) -> Space {
        Space {
            first_level: self.root,
            reserve: Some(reserve),
            release: Some(release),
            map: Some(map),
            unmap: Some(unmap),
            context: ptr::from_ref(self).cast_mut().cast(),
        }
    }

    fn change(&self, va: u32, bytes: usize, word: impl Fn(u32) -> u32) {
        let words: Vec<_> = (0..(bytes / PAGE) as u32).map(word).collect();
        self.fake.publish(PhysAddr::new(self.root + 0x2000 + 4 * ((va - FIRST) >> 12)), &words);
    }

    /// Writes or reads a byte as a program does.
    fn byte(&self, va: u32, access: UserAccess) -> *mut u8 {
        self.fake.reach_user(self.asid, VirtAddr::new(va), 1, access)
    }

    fn finds(&self, va: u32) -> bool {
        self.fake.user_page(self.asid, VirtAddr::new(va)).is_some()
    }
}

/// Returns the process that a function of C is called for.
unsafe fn of(context: *mut c_void) -> &'static Process {
    // SAFETY: `Process::space` passed it.
    unsafe { &*context.cast() }
}

unsafe extern "C" fn reserve(context: *mut c_void, bytes: usize) -> u32 {
    // SAFETY: the context of a process.
    let process = unsafe { of(context) };
    let (first, pages) = (process.next.get(), (bytes / PAGE) as u32);
    if first + pages >= 256 {
        return 0;
    }
    process.next.set(first + pages + 1);
    process.reserved.set(process.reserved.get() + pages);
    FIRST + (first << 12)
}

unsafe extern "C" fn release(context: *mut c_void, _: u32, bytes: usize) {
    // SAFETY: the context of a process.
    let process = unsafe { of(context) };
    process.reserved.set(process.reserved.get() - (bytes / PAGE) as u32);
}

unsafe extern "C" fn map(context: *mut c_void, va: u32, descriptor: u32, bytes: usize) {
    assert!(L2Desc::from_raw(descriptor).decode_user().is_some(), "a small page of a user's: {descriptor:#x}");
    // SAFETY: the context of a process.
    unsafe { of(context) }.change(va, bytes, |n| descriptor + 0x1000 * n);
}

unsafe extern "C" fn unmap(context: *mut c_void, va: u32, bytes: usize) {
    // SAFETY: the context of a process.
    let process = unsafe { of(context) };
    process.change(va, bytes, |_| 0);
    process.fake.invalidate_user(process.asid, VirtAddr::new(va), bytes as u32);
}

fn client(name: &'static CStr, space: Option<&Space>, quota: u64) -> Client {
    // SAFETY: a string.
    let (client, (), code, line) =
        call(|_, why| unsafe { carveout_client_add(name.as_ptr(), space, quota, Some(why)) });
    assert_eq!((code, line.as_str()), (Error::Ok, ""));
    client
}

fn create(client: Client, size: usize, view: u32) -> (Share, Error, String) {
    let camera = device(c"camera");
    // SAFETY: a string.
    let (share, (), code, line) =
        call(|_, why| unsafe { carveout_share_create(client, Some(&camera), size, view, c"film".as_ptr(), Some(why)) });
    (share, code, line)
}

fn offer(client: Client, share: Share, offer: &Offer) -> (Share, Error, String) {
    let (share, (), code, line) = call(|_, why| carveout_share_offer(client, share, Some(offer), Some(why)));
    (share, code, line)
}

fn find(client: Client, name: &'static CStr) -> (Share, Error, String) {
    // SAFETY: a string.
    let (share, (), code, line) = call(|_, why| unsafe { carveout_share_find(client, name.as_ptr(), Some(why)) });
    (share, code, line)
}

fn map_share(client: Client, share: Share) -> (u32, Error, String) {
    let (_, va, code, line) = call(|to, why| carveout_share_map(client, share, Some(to), Some(why)));
    (va, code, line)
}

fn set_cpu(client: Client, share: Share, (first, count): (u32, u32), access: u32) -> (Error, String) {
    let (_, (), code, line) = call(|_, why| carveout_share_set_cpu(client, share, first, count, access, Some(why)));
    (code, line)
}

fn lend(client: Client, share: Share, (first, count): (u32, u32), dev: &Device, dir: u32) -> (Lease, Error, String) {
    let (lease, (), code, line) =
        call(|_, why| carveout_share_lend(client, share, first, count, Some(dev), dir, Some(why)));
    (lease, code, line)
}

fn fault(client: Client, va: u32, writes: u32) -> (Fault, FaultPage, String) {
    let (mut page, mut line) = (MaybeUninit::<FaultPage>::zeroed(), [0; 160]);
    // SAFETY: the line has as many characters.
    let fault = unsafe { carveout_share_fault(client, va, writes, Some(&mut page), line.as_mut_ptr(), line.len()) };
    // SAFETY: zeros are a page, and so is what was written.
    (fault, unsafe { page.assume_init() }, text_of(&line))
}

fn paid(client: Client) -> u64 {
    let (answer, bytes, ..) = call(|to, why| carveout_client_paid(client, Some(to), Some(why)));
    assert_eq!(answer, Error::Ok);
    bytes
}

fn start_sharing() -> &'static Machine {
    let machine = start();
    assert_eq!(carveout_share_init(Some(&LIMITS), None), Error::Ok);
    machine
}

fn free_bytes() -> u64 {
    use crate::report::{Room, carveout_area_room};

    let (_, room, ..) = call::<Room, _>(|to, why| carveout_area_room(0, Some(to), Some(why)));
    room.bytes
}

#[test]
fn sharing_begins_once_and_after_init() {
    alone(|| {
        assert_eq!(refused(|why| carveout_share_init(Some(&LIMITS), Some(why))).0, Error::NotReady);
        start();
        let (code, line) = refused(|why| carveout_share_init(None, Some(why)));
        assert_eq!((code, line.as_str()), (Error::NullPointer, "limits is NULL, and is needed"));
        let not_sharing = "carveout_share_init has not succeeded yet: call it first".to_string();
        let camera = device(c"camera");
        let given = Offer { to: NOBODY, rights: READ, first: 0, count: 1, name: c"part".as_ptr() };
        let (mut va, mut bytes) = (MaybeUninit::uninit(), MaybeUninit::uninit());
        let refusals = [
            // SAFETY: a string.
            refused(|why| unsafe { carveout_client_add(c"x".as_ptr(), None, 0, Some(why)) }),
            refused(|why| carveout_client_remove(NOBODY, None, Some(why))),
            refused(|why| carveout_client_paid(NOBODY, Some(&mut bytes), Some(why))),
            // SAFETY: a string.
            refused(|why| unsafe { carveout_share_create(NOBODY, Some(&camera), 1, 0, c"x".as_ptr(), Some(why)) }),
            refused(|why| carveout_share_offer(NOBODY, NOTHING, Some(&given), Some(why))),
            // SAFETY: a string.
            refused(|why| unsafe { carveout_share_find(NOBODY, c"x".as_ptr(), Some(why)) }),
            refused(|why| carveout_share_close(NOBODY, NOTHING, Some(why))),
            refused(|why| carveout_share_revoke(NOBODY, NOTHING, None, Some(why))),
            refused(|why| carveout_share_map(NOBODY, NOTHING, Some(&mut va), Some(why))),
            refused(|why| carveout_share_unmap(NOBODY, NOTHING, Some(why))),
            refused(|why| carveout_share_set_cpu(NOBODY, NOTHING, 0, 1, READ, Some(why))),
            refused(|why| carveout_share_lend(NOBODY, NOTHING, 0, 1, Some(&camera), TO_DEVICE, Some(why))),
            refused(|why| carveout_share_finish(Lease { id: 1, addr: 0 }, Some(why))),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_for_each_share(None, ptr::null_mut(), Some(why)) }),
            refused(|why| carveout_share_count(None, Some(why))),
            refused(|why| carveout_share_effort(NOBODY, NOTHING, None, Some(why))),
        ];
        for refusal in refusals {
            assert_eq!(refusal, (Error::NotSharing, not_sharing.clone()));
        }
        assert_eq!(fault(NOBODY, FIRST, 0).0, Fault::NotShared);
        assert_eq!(carveout_share_init(Some(&LIMITS), None), Error::Ok);
        let (code, line) = refused(|why| carveout_share_init(Some(&LIMITS), Some(why)));
        assert_eq!(
            (code, line.as_str()),
            (Error::Sharing, "carveout_share_init has succeeded before: it is called once")
        );
    });
}

#[test]
fn i1_i4_a_film_goes_from_a_device_to_a_process_by_parts() {
    alone(|| {
        let machine = start_sharing();
        let (filmer, viewer) = (Process::new(machine, 1), Process::new(machine, 2));
        let films = client(c"filmer", Some(&filmer.space()), 1 << 20);
        let views = client(c"viewer", Some(&viewer.space()), 0);
        let (film, ..) = create(films, 32 * PAGE, CACHED);
        assert_eq!(paid(films), 32 * PAGE as u64);
        let part = Offer { to: views, rights: READ, first: 16, count: 16, name: c"second half".as_ptr() };
        let (half, ..) = offer(films, film, &part);
        assert_eq!(find(views, c"second half").0, half);
        let at = map_share(films, film).0;
        let seen = map_share(views, half).0;
        assert!(!filmer.finds(at) && !viewer.finds(seen), "the pages are nobody's");

        assert_eq!(set_cpu(films, film, (0, 32), BOTH).0, Error::Ok);
        for page in 0..32 {
            // SAFETY: the program's byte.
            unsafe { filmer.byte(at + 0x1000 * page, UserAccess::ReadWrite).write(page as u8) };
        }
        // SAFETY: the program's byte.
        assert_eq!(unsafe { viewer.byte(seen + 0x1000, UserAccess::Read).read() }, 17);
        assert_eq!(fault(views, seen, 1).0, Fault::Rights);
        audits_clean(&[filmer, viewer], 32 + 16);

        let camera = device(c"camera");
        let (lease, code, _) = lend(films, film, (0, 32), &camera, FROM_DEVICE);
        assert_eq!(code, Error::Ok);
        assert!(!filmer.finds(at) && !viewer.finds(seen), "I4");
        let (why, _, line) = fault(views, seen + 0x1000, 0);
        assert_eq!((why, line.as_str()), (Fault::Device, "a page of second half, which camera has"));
        let (code, line) = set_cpu(views, half, (0, 1), READ);
        assert_eq!(
            (code, line.as_str()),
            (Error::DeviceOwns, "camera has some of the pages: wait until it has finished")
        );
        machine.device_write(PhysAddr::new(lease.addr + 16 * PAGE as u32), b"a frame");
        assert_eq!(carveout_share_finish(lease, None), Error::Ok);
        let (code, line) = refused(|why| carveout_share_finish(lease, Some(why)));
        let gone = "the handle names no lease: it was given back, or there never was one";
        assert_eq!((code, line.as_str()), (Error::Stale, gone));

        let (why, page, line) = fault(views, seen, 0);
        assert_eq!((why, page), (Fault::Domain, FaultPage { share: half, page: 0, access: READ }));
        assert_eq!(line, "page 0 of second half, which nobody made the CPU's");
        assert_eq!(set_cpu(views, page.share, (page.page, 1), page.access).0, Error::Ok);
        // SAFETY: the program's byte.
        assert_eq!(unsafe { viewer.byte(seen, UserAccess::Read).read() }, b'a');
        assert_eq!(fault(views, seen, 0).0, Fault::Again);
        let (_, effort, ..) = call::<ShareEffort, _>(|to, why| carveout_share_effort(films, film, Some(to), Some(why)));
        assert!(effort.invalidated > 0 && effort.cleaned > effort.invalidated, "{effort:?}");
        let (_, counts, ..) = call::<ShareCounts, _>(|to, why| carveout_share_count(Some(to), Some(why)));
        assert_eq!((counts.changes, counts.free), (3, 0));

        let (_, revoked, code, _) = call(|to, why| carveout_share_revoke(films, film, Some(to), Some(why)));
        assert_eq!((revoked, code), (1, Error::Ok));
        assert!(!viewer.finds(seen) && viewer.reserved.get() == 0);
        assert_eq!(fault(views, seen, 0).0, Fault::Revoked);
        assert_eq!(find(views, c"second half").1, Error::NoName);
        assert_eq!(refused(|why| carveout_share_close(views, half, Some(why))).0, Error::Stale);
        assert_eq!(carveout_share_unmap(films, film, None), Error::Ok);
        assert_eq!(filmer.reserved.get(), 0);
        let (_, swept, code, _) = call(|to, why| carveout_client_remove(films, Some(to), Some(why)));
        assert_eq!((swept, code), (1, Error::Ok));
        assert_eq!(free_bytes(), u64::from(CARVED_BYTES), "I5: nothing leaks");
    });
}

/// The audit finds all as it must be, and so many pages of users.
fn audits_clean(processes: &[&Process], pages: u32) {
    let roots: Vec<_> = processes.iter().map(|process| process.root).collect();
    let ram = [Range { base: RAM.raw(), bytes: RAM_BYTES }];
    let text = Range { base: RAM.raw(), bytes: 4096 };
    let roots = (roots.as_ptr(), roots.len());
    let expected = Expected { ram: ram.as_ptr(), ram_count: 1, text, roots: roots.0, root_count: roots.1 };
    let (_, report, code, line) = call::<AuditReport, _>(|to, why| {
        // SAFETY: no function.
        unsafe { carveout_audit(Some(&expected), None, ptr::null_mut(), Some(to), Some(why)) }
    });
    assert_eq!((code, line.as_str(), report.user_pages), (Error::Ok, "", pages));
}

#[test]
fn i1_the_audit_finds_what_a_space_mapped_beside() {
    alone(|| {
        let machine = start_sharing();
        let process = Process::new(machine, 1);
        let painter = client(c"painter", Some(&process.space()), 1 << 20);
        let (film, ..) = create(painter, 2 * PAGE, CACHED);
        let at = map_share(painter, film).0;
        assert_eq!(set_cpu(painter, film, (0, 2), BOTH).0, Error::Ok);
        audits_clean(&[process], 2);
        // A page too many, at an address that nobody granted.
        let first = machine.table_word(PhysAddr::new(process.root + 0x2000 + 4 * ((at - FIRST) >> 12))).unwrap();
        process.change(at + 0x2000, PAGE, |_| first);
        let ram = [Range { base: RAM.raw(), bytes: RAM_BYTES }];
        let expected = Expected {
            ram: ram.as_ptr(),
            ram_count: 1,
            text: Range { base: RAM.raw(), bytes: 4096 },
            roots: &raw const process.root,
            root_count: 1,
        };
        // SAFETY: no function.
        let (code, line) =
            refused(|why| unsafe { carveout_audit(Some(&expected), None, ptr::null_mut(), None, Some(why)) });
        assert_eq!(code, Error::Audit);
        assert!(line.contains(&format!("{:#010x}", at + 0x2000)), "{line}");
    });
}

#[test]
fn what_a_client_may_not_is_refused_and_changes_nothing() {
    alone(|| {
        let machine = start_sharing();
        let process = Process::new(machine, 1);
        let painter = client(c"painter", Some(&process.space()), 8 * PAGE as u64);
        let driver = client(c"driver", None, 0);
        let camera = device(c"camera");
        let (code, line) = (create(painter, 9 * PAGE, CACHED).1, create(painter, 9 * PAGE, CACHED).2);
        assert_eq!(code, Error::Quota);
        assert_eq!(line, "9 frames are over the quota: 0 of 8 are in use; give some up");
        assert_eq!(create(painter, 0, CACHED).1, Error::ZeroSize);
        assert_eq!(create(painter, usize::MAX, CACHED).1, Error::NoCapacity);
        let (_, code, line) = create(painter, PAGE, 2);
        assert_eq!((code, line.as_str()), (Error::View, "2 is no view: 0 is cached, 1 write-combining"));
        assert_eq!(create(NOBODY, PAGE, CACHED).1, Error::Stale);
        assert_eq!(create(Client { id: painter.id ^ 1 << 40 }, PAGE, CACHED).1, Error::Stale);

        let (film, ..) = create(painter, 4 * PAGE, View::WriteCombining as u32);
        let part = |rights, first, count| Offer { to: driver, rights, first, count, name: c"part".as_ptr() };
        let (code, line) = (offer(painter, film, &part(8, 0, 1)).1, offer(painter, film, &part(8, 0, 1)).2);
        assert_eq!(code, Error::Rights);
        assert_eq!(line, "8 are no rights: they are the sum of 1 to read, 2 to write, 4 to share on");
        assert_eq!(offer(painter, film, &part(READ, 1, 4)).1, Error::Range);
        assert_eq!(offer(painter, film, &part(READ, 1, u32::MAX)).1, Error::Range);
        assert_eq!(offer(painter, film, &part(READ, 0, 0)).1, Error::Range);
        assert_eq!(offer(painter, film, &Offer { to: NOBODY, ..part(READ, 0, 1) }).1, Error::Stale);
        assert_eq!(offer(painter, film, &Offer { name: ptr::null(), ..part(READ, 0, 1) }).1, Error::NullPointer);
        assert_eq!(offer(painter, film, &Offer { name: c"\xff".as_ptr(), ..part(READ, 0, 1) }).1, Error::Name);
        let (seen, ..) = offer(painter, film, &part(READ, 0, 2));
        // It may not write, not share on, and not be somebody else.
        assert_eq!(set_cpu(driver, seen, (0, 1), BOTH).0, Error::Rights);
        let (code, line) = set_cpu(driver, seen, (0, 1), WRITE);
        assert_eq!(code, Error::Rights);
        assert_eq!(line, "2 is no access of a program's: 1 reads, 3 reads and writes");
        assert_eq!(lend(driver, seen, (0, 1), &camera, FROM_DEVICE).1, Error::Rights);
        assert_eq!(offer(driver, seen, &Offer { to: painter, ..part(READ, 0, 1) }).1, Error::Rights);
        assert_eq!(set_cpu(driver, film, (0, 1), READ).0, Error::Stale);
        assert_eq!(map_share(driver, seen).1, Error::NoSpace);
        let shared_on = part(READ | RESHARE, 2, 2);
        let (again, ..) = offer(painter, film, &shared_on);
        assert_eq!(offer(driver, again, &Offer { to: painter, ..part(READ, 0, 1) }).1, Error::Ok);

        assert_eq!(map_share(painter, film).1, Error::Ok);
        assert_eq!(map_share(painter, film).1, Error::Mapped);
        process.next.set(255);
        assert_eq!(carveout_share_unmap(painter, film, None), Error::Ok);
        let (_, code, line) = map_share(painter, film);
        assert_eq!(
            (code, line.as_str()),
            (Error::NoRoom, "the address space has no room for 4 pages; unmap something")
        );
        assert_eq!(lend(painter, film, (0, 5), &camera, FROM_DEVICE).1, Error::Range);
        assert_eq!(lend(painter, film, (0, 4), &camera, 3).1, Error::Direction);
        let near = Device { dma_mask: 0x00ff_ffff, ..device(c"near") };
        assert_eq!(lend(painter, film, (0, 4), &near, TO_DEVICE).1, Error::OutOfReach);

        // Two leases are as many as there may be. The third changes nothing.
        let first = lend(painter, film, (0, 1), &camera, TO_DEVICE).0;
        let second = lend(painter, film, (1, 1), &camera, TO_DEVICE).0;
        let (_, code, line) = lend(painter, film, (2, 1), &camera, TO_DEVICE);
        assert_eq!((code, line.as_str()), (Error::NoRecord, "all 2 records of lease are in use"));
        assert_eq!(set_cpu(painter, film, (2, 1), READ).0, Error::Ok, "nobody has the page");
        assert_eq!(carveout_share_finish(Lease { id: second.id ^ 1 << 40, ..second }, None), Error::Stale);
        assert_eq!(carveout_share_finish(Lease { id: 0, addr: 0 }, None), Error::Stale);
        for lease in [first, second] {
            assert_eq!(carveout_share_finish(lease, None), Error::Ok);
        }
        // A refused lease leaves no record behind.
        for _ in 0..3 {
            assert_eq!(lend(painter, film, (0, 5), &camera, TO_DEVICE).1, Error::Range);
        }
    });
}

#[test]
fn null_pointers_are_refused() {
    alone(|| {
        let machine = start_sharing();
        let process = Process::new(machine, 1);
        let painter = client(c"painter", Some(&process.space()), 8 * PAGE as u64);
        let (film, ..) = create(painter, PAGE, CACHED);
        let whole = process.space();
        let space = |space: Space| {
            // SAFETY: a string.
            refused(|why| unsafe { carveout_client_add(c"x".as_ptr(), Some(&space), 0, Some(why)) })
        };
        let refusals = [
            space(Space { reserve: None, ..process.space() }),
            space(Space { release: None, ..process.space() }),
            space(Space { map: None, ..process.space() }),
            space(Space { unmap: None, ..whole }),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_client_add(ptr::null(), None, 0, Some(why)) }),
            refused(|why| carveout_client_paid(painter, None, Some(why))),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_share_create(painter, None, PAGE, 0, c"x".as_ptr(), Some(why)) }),
            refused(|why| carveout_share_offer(painter, film, None, Some(why))),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_share_find(painter, ptr::null(), Some(why)) }),
            refused(|why| carveout_share_map(painter, film, None, Some(why))),
            refused(|why| carveout_share_lend(painter, film, 0, 1, None, TO_DEVICE, Some(why))),
            // SAFETY: NULL.
            refused(|why| unsafe { carveout_for_each_share(None, ptr::null_mut(), Some(why)) }),
            refused(|why| carveout_share_count(None, Some(why))),
            refused(|why| carveout_share_effort(painter, film, None, Some(why))),
        ];
        for (code, line) in refusals {
            assert_eq!(code, Error::NullPointer, "{line}");
            assert!(line.ends_with(" is NULL, and is needed"), "{line}");
        }
        // A client whose space was refused took no place.
        client(c"second", Some(&process.space()), 0);
        client(c"third", None, 0);
        // SAFETY: a string.
        let (code, line) = refused(|why| unsafe { carveout_client_add(c"x".as_ptr(), None, 0, Some(why)) });
        assert_eq!(code, Error::NoRecord);
        assert!(line.starts_with("no room for more clients"), "{line}");
    });
}

#[test]
fn places_of_address_spaces_are_used_again() {
    alone(|| {
        let machine = start_sharing();
        let process = Process::new(machine, 1);
        for turn in 0..10 {
            let all = [(); 3].map(|()| client(c"process", Some(&process.space()), 8 * PAGE as u64));
            // SAFETY: a string.
            let (code, _) =
                refused(|why| unsafe { carveout_client_add(c"x".as_ptr(), Some(&process.space()), 0, Some(why)) });
            assert_eq!(code, Error::NoRecord, "turn {turn}");
            let (film, ..) = create(all[1], PAGE, CACHED);
            process.next.set(1);
            assert_eq!(map_share(all[1], film).1, Error::Ok);
            for client in all {
                assert_eq!(carveout_client_remove(client, None, None), Error::Ok);
                assert_eq!(carveout_client_remove(client, None, None), Error::Stale);
            }
            assert_eq!(process.reserved.get(), 0);
        }
        assert_eq!(free_bytes(), u64::from(CARVED_BYTES));
    });
}

#[test]
fn who_has_what_is_told() {
    unsafe extern "C" fn each(context: *mut c_void, record: &ShareRecord) {
        // SAFETY: the context is the list.
        let list = unsafe { &mut *context.cast::<Vec<String>>() };
        let ShareRecord { client, buffer, paid_by, first, count, rights, va } = record;
        let [client, buffer, paid_by] = [client, buffer, paid_by].map(|name| text_of(name));
        list.push(format!("{client} {buffer} {first}+{count} {rights} {va:#x} {paid_by}"));
    }
    alone(|| {
        let machine = start_sharing();
        let process = Process::new(machine, 1);
        let painter = client(c"painter", Some(&process.space()), 8 * PAGE as u64);
        let driver = client(c"driver", None, 0);
        let (film, ..) = create(painter, 4 * PAGE, CACHED);
        map_share(painter, film);
        offer(painter, film, &Offer { to: driver, rights: READ, first: 1, count: 2, name: c"part".as_ptr() });
        let list = || {
            let mut list: Vec<String> = Vec::new();
            // SAFETY: `each` takes the list.
            let answer = unsafe { carveout_for_each_share(Some(each), ptr::from_mut(&mut list).cast(), None) };
            assert_eq!(answer, Error::Ok);
            list
        };
        assert_eq!(list(), ["painter film 0+4 7 0x101000 painter", "driver part 1+2 1 0x0 painter"]);
        assert_eq!(carveout_share_close(painter, film, None), Error::Ok);
        assert_eq!(list(), ["driver part 1+2 1 0x0 driver"], "who has it for longest pays");
        assert_eq!((paid(painter), paid(driver)), (0, 4 * PAGE as u64));
    });
}
