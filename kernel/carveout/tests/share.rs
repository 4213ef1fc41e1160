//! Shared buffers, on the host's fake machine: who finds what, what is maintained, and what outlives nobody's right.

mod users;

use carveout::addr::{FRAME_SHIFT, FRAME_SIZE, Frame, FrameRange, PhysAddr, VirtAddr};
use carveout::dma::{
    ClientId, DataDirection, DeviceLease, MAX_PARTS, Master, Offer, ShareDomain, ShareError, ShareFault, ShareHandle,
    ShareLimits, ShareRights, Shares, UserAccess, UserView,
};
use carveout::fake::{Fake, LINE};
use carveout::machine::Mmu;
use carveout::setup::{RAM, RAM_BYTES, Setup};
use carveout::vm::attr::Shareability;
use carveout::vm::audit::{Expect, Finding, KernelMap};
use carveout::vm::desc::L2Desc;
use carveout::vm::mapped::Part;
use carveout::vm::user::{Asid, UserSpace};
use carveout::vm::user_tables::UserTables;
use proptest::prelude::*;
use std::sync::{Arc, OnceLock};
use users::{Plant, TestSpace};

const LIMITS: ShareLimits = ShareLimits { clients: 4, grants: 12, buffers: 3 };
const PAGE_LINES: u64 = FRAME_SIZE as u64 / LINE as u64;
const QUOTA: u64 = 1 << 20;

/// A machine, its shares, and clients with their address spaces.
struct World {
    setup: Setup,
    shares: &'static Shares<Fake>,
    clients: Vec<(ClientId, Arc<TestSpace>)>,
    camera: Master,
}

fn world(clients: u32, plant: Plant) -> World {
    let setup = Setup::new(1);
    let shares: &'static _ = Box::leak(Box::new(Shares::new(setup.dma, LIMITS).unwrap()));
    let client = |n| {
        let space = TestSpace::new(setup.fake, n, plant);
        (shares.add_client(&format!("client {n}"), Some(space.clone()), QUOTA).unwrap(), space)
    };
    let clients = (0..clients).map(client).collect();
    let camera = setup.master("camera");
    World { setup, shares, clients, camera }
}

fn page(va: VirtAddr, n: u32) -> VirtAddr {
    VirtAddr::new(va.raw() + (n << FRAME_SHIFT))
}

fn finish(lease: DeviceLease<Fake>) {
    // SAFETY: the test's device does nothing of its own accord (I4).
    unsafe { lease.finish() };
}

impl World {
    fn create(&self, pages: u32, view: UserView) -> ShareHandle {
        self.shares.create(self.clients[0].0, &self.camera, pages << FRAME_SHIFT, view, "picture").unwrap()
    }

    fn offer(
        &self,
        from: usize,
        handle: ShareHandle,
        to: usize,
        rights: ShareRights,
        pages: (u32, u32),
    ) -> ShareHandle {
        let offer = Offer { to: self.clients[to].0, rights, pages, name: "part" };
        self.shares.share(self.clients[from].0, handle, &offer).unwrap()
    }

    fn cleaned(&self) -> u64 {
        self.setup.dma.stats().cleaned.inner
    }

    fn invalidated(&self) -> u64 {
        self.setup.dma.stats().invalidated.inner
    }
}

#[test]
fn i1_i4_a_picture_goes_from_its_painter_to_a_device_to_its_viewer() {
    let world = world(2, Plant::None);
    let (shares, [(painter, paints), (viewer, views)]) = (world.shares, &world.clients[..]) else { unreachable!() };
    let (painter, viewer) = (*painter, *viewer);
    let picture = world.create(4, UserView::Cached);
    let part = world.offer(0, picture, 1, ShareRights::READ, (1, 3));
    let at = shares.map(painter, picture).unwrap();
    assert_eq!(paints.finds(at), None, "the pages are nobody's");
    shares.set_cpu(painter, picture, 0..4, UserAccess::ReadWrite).unwrap();
    for n in 0..4 {
        assert_eq!(paints.read(page(at, n)), 0, "I5");
        paints.write(page(at, n), 10 + n as u8);
    }
    // The viewer comes while the painter has it. It finds its two pages, and may not write.
    let seen = shares.map(viewer, part).unwrap();
    assert_eq!([0, 1].map(|n| views.read(page(seen, n))), [11, 12]);
    assert!(views.finds(seen).is_some_and(|(_, writable)| !writable));
    assert_eq!(views.finds(page(seen, 2)), None, "pages 1 and 2 and nothing else");

    let cleaned = world.cleaned();
    let lease = shares.lend(painter, picture, 0..4, &world.camera, DataDirection::Bidirectional).unwrap();
    assert_eq!(world.cleaned() - cleaned, 4 * PAGE_LINES, "what the painter may have written");
    let found = [paints.finds(at), paints.finds(page(at, 3)), views.finds(seen)];
    assert_eq!(found, [None; 3], "I4: a device has the pages");
    let fault = shares.fault(viewer, page(seen, 1), UserAccess::Read);
    assert_eq!(fault.unwrap().to_string(), "a page of part, which camera has");
    assert_eq!(world.setup.fake.device_read(PhysAddr::new(lease.bus().raw() + 0x2000), 1), [12]);
    world.setup.fake.device_write(PhysAddr::new(lease.bus().raw()), &vec![77; 4 << FRAME_SHIFT]);
    assert_eq!(
        shares.set_cpu(viewer, part, 0..2, UserAccess::Read).unwrap_err().to_string(),
        "camera has some of the pages: wait until it has finished"
    );
    finish(lease);

    let invalidated = world.invalidated();
    shares.set_cpu(viewer, part, 0..2, UserAccess::Read).unwrap();
    assert_eq!(world.invalidated() - invalidated, 2 * PAGE_LINES, "the two pages that are looked at");
    assert_eq!(views.read(seen), 77);
    assert_eq!(paints.finds(at), None, "nobody asked for page 0");
    assert!(paints.finds(page(at, 1)).is_some_and(|(_, writable)| !writable), "to read, for so it was asked");
    shares.set_cpu(painter, picture, 1..3, UserAccess::Read).unwrap();
    assert_eq!(world.invalidated() - invalidated, 2 * PAGE_LINES, "a second reader costs nothing");
    assert_eq!(shares.stats().free, 1);
}

/// What a program reads costs lines only where a device made some stale, and what it may have written is cleaned.
#[test]
fn i3_the_least_is_done_by_range() {
    let world = world(1, Plant::None);
    let (shares, (painter, paints)) = (world.shares, &world.clients[0]);
    let painter = *painter;
    let picture = world.create(8, UserView::Cached);
    let at = shares.map(painter, picture).unwrap();
    let lend = |pages, direction| shares.lend(painter, picture, pages, &world.camera, direction).unwrap();

    shares.set_cpu(painter, picture, 0..8, UserAccess::Read).unwrap();
    finish(lend(0..8, DataDirection::ToDevice));
    assert_eq!((world.cleaned(), world.invalidated()), (0, 0), "nobody wrote");
    shares.set_cpu(painter, picture, 2..4, UserAccess::ReadWrite).unwrap();
    paints.write(page(at, 2), 5);
    let invalidated = world.invalidated();
    let lease = lend(0..8, DataDirection::Bidirectional);
    assert_eq!(world.cleaned(), 2 * PAGE_LINES, "the pages that may have been written");
    world.setup.fake.device_write(PhysAddr::new(lease.bus().raw()), &vec![9; 8 << FRAME_SHIFT]);
    finish(lease);
    shares.set_cpu(painter, picture, 7..8, UserAccess::Read).unwrap();
    assert_eq!(world.invalidated() - invalidated, PAGE_LINES, "the page that is looked at");
    assert_eq!(paints.read(page(at, 7)), 9);
    // Some pages are stale now, one is not, and one is written: none of that is mixed up.
    shares.set_cpu(painter, picture, 4..5, UserAccess::ReadWrite).unwrap();
    paints.write(page(at, 4), 44);
    shares.set_cpu(painter, picture, 0..8, UserAccess::Read).unwrap();
    assert_eq!([0, 4, 7].map(|n| paints.read(page(at, n))), [9, 44, 9]);
    assert_eq!(world.invalidated() - invalidated, 8 * PAGE_LINES, "each stale page once");
    let lease = lend(0..8, DataDirection::ToDevice);
    let bytes = world.setup.fake.device_read(PhysAddr::new(lease.bus().raw()), 8 << FRAME_SHIFT);
    assert_eq!([0, 4, 7].map(|n| bytes[n << FRAME_SHIFT]), [9, 44, 9]);
    finish(lease);
}

#[test]
fn i3_past_the_caches_no_line_is_maintained() {
    let world = world(2, Plant::None);
    let (shares, [(painter, paints), (viewer, views)]) = (world.shares, &world.clients[..]) else { unreachable!() };
    let (painter, viewer) = (*painter, *viewer);
    let picture = world.create(2, UserView::WriteCombining);
    let part = world.offer(0, picture, 1, ShareRights::READ, (0, 2));
    let (at, seen) = (shares.map(painter, picture).unwrap(), shares.map(viewer, part).unwrap());
    let before = (world.cleaned(), world.invalidated());
    for round in 1..4 {
        shares.set_cpu(painter, picture, 0..2, UserAccess::ReadWrite).unwrap();
        paints.write(at, round);
        assert_eq!(views.read(seen), round);
        let lease = shares.lend(painter, picture, 0..2, &world.camera, DataDirection::Bidirectional).unwrap();
        let bus = PhysAddr::new(lease.bus().raw());
        assert_eq!(world.setup.fake.device_read(bus, 1), [round], "the barrier was passed");
        world.setup.fake.device_write(bus, &[round + 100]);
        finish(lease);
        shares.set_cpu(viewer, part, 0..2, UserAccess::Read).unwrap();
        assert_eq!(views.read(seen), round + 100);
    }
    assert_eq!((world.cleaned(), world.invalidated()), before);
}

#[test]
fn devices_that_read_have_pages_together_and_one_that_writes_has_them_alone() {
    let world = world(1, Plant::None);
    let (shares, painter, scaler) = (world.shares, world.clients[0].0, world.setup.master("scaler"));
    let picture = world.create(4, UserView::Cached);
    let lend = |pages, master, direction| shares.lend(painter, picture, pages, master, direction);
    let first = lend(0..2, &world.camera, DataDirection::ToDevice).unwrap();
    let second = lend(0..2, &scaler, DataDirection::ToDevice).unwrap();
    let taken = |result: Result<DeviceLease<Fake>, _>| result.err();
    let camera = Some(ShareError::Device { master: world.camera.name() });
    assert_eq!(taken(lend(0..2, &scaler, DataDirection::FromDevice)), camera);
    assert_eq!(taken(lend(1..3, &scaler, DataDirection::ToDevice)), camera, "other pages");
    finish(first);
    assert_eq!(taken(lend(0..2, &scaler, DataDirection::FromDevice)), camera, "the second one has them still");
    finish(second);
    let alone = lend(0..2, &scaler, DataDirection::FromDevice).unwrap();
    assert!(lend(0..2, &world.camera, DataDirection::ToDevice).is_err());
    assert!(lend(2..4, &world.camera, DataDirection::ToDevice).is_ok(), "other pages; the device keeps them");
    finish(alone);
}

#[test]
fn what_is_revoked_is_gone_at_once_from_all_who_had_it_from_there() {
    let world = world(3, Plant::None);
    let (shares, spaces) = (world.shares, &world.clients);
    let picture = world.create(4, UserView::Cached);
    let reshare = ShareRights::READ | ShareRights::RESHARE;
    let second = world.offer(0, picture, 1, reshare, (0, 4));
    let third = world.offer(1, second, 2, ShareRights::READ, (3, 4));
    let at: Vec<_> = [picture, second, third].iter().zip(spaces).map(|(&h, c)| shares.map(c.0, h).unwrap()).collect();
    shares.set_cpu(spaces[0].0, picture, 0..4, UserAccess::ReadWrite).unwrap();
    spaces[0].1.write(page(at[0], 3), 3);
    assert_eq!(spaces[2].1.read(at[2]), 3);
    assert_eq!(
        shares.share(
            spaces[1].0,
            second,
            &Offer { to: spaces[2].0, rights: ShareRights::WRITE, pages: (0, 1), name: "x" }
        ),
        Err(ShareError::Rights { handle: second, has: reshare, wanted: ShareRights::WRITE | ShareRights::RESHARE }),
        "nobody grants what it has not"
    );
    assert_eq!(shares.revoke(spaces[0].0, picture), Ok(2));
    assert_eq!((spaces[1].1.finds(at[1]), spaces[2].1.finds(at[2])), (None, None));
    assert!(spaces[0].1.finds(at[0]).is_some(), "who revokes keeps it");
    assert_eq!(shares.map(spaces[1].0, second), Err(ShareError::Stale { handle: second }));
    let fault = shares.fault(spaces[2].0, at[2], UserAccess::Read).unwrap();
    assert_eq!(fault.to_string(), "part, which was revoked");
    assert_eq!(shares.fault(spaces[2].0, page(at[2], 1), UserAccess::Read), None, "never a page of it");
}

#[test]
fn i5_a_buffer_lives_as_long_as_anybody_has_it_and_who_has_it_pays() {
    let world = world(2, Plant::None);
    let (shares, [(painter, paints), (viewer, views)]) = (world.shares, &world.clients[..]) else { unreachable!() };
    let (painter, viewer) = (*painter, *viewer);
    let free = world.setup.free_bytes();
    let picture = world.create(4, UserView::Cached);
    let part = world.offer(0, picture, 1, ShareRights::READ, (0, 1));
    let at = shares.map(painter, picture).unwrap();
    shares.set_cpu(painter, picture, 0..4, UserAccess::ReadWrite).unwrap();
    paints.write(at, 1);
    assert_eq!((shares.paid(painter), shares.paid(viewer)), (Ok(4 << 12), Ok(0)));
    assert_eq!(shares.remove_client(painter), Ok(1), "a dead process");
    assert_eq!(shares.remove_client(painter), Err(ShareError::NoClient { client: painter }));
    assert_eq!(paints.finds(at), None);
    let seen = shares.map(viewer, part).unwrap();
    assert_eq!(views.read(seen), 1);
    assert_eq!(shares.paid(viewer), Ok(4 << 12), "who has it last pays");
    assert_eq!(free - world.setup.free_bytes(), 4 << 12);
    shares.close(viewer, part).unwrap();
    assert_eq!(views.finds(seen), None);
    assert_eq!((world.setup.free_bytes(), shares.paid(viewer)), (free, Ok(0)));
    world.setup.audit().unwrap();
    let again = shares.create(viewer, &world.camera, 4 << 12, UserView::Cached, "new").unwrap();
    let at = shares.map(viewer, again).unwrap();
    shares.set_cpu(viewer, again, 0..4, UserAccess::Read).unwrap();
    assert_eq!(views.read(at), 0, "I5");
}

#[test]
fn i4_a_buffer_that_a_device_has_is_never_given_out_again() {
    let world = world(1, Plant::None);
    let (shares, painter) = (world.shares, world.clients[0].0);
    let free = world.setup.free_bytes();
    let picture = world.create(4, UserView::Cached);
    let lease = shares.lend(painter, picture, 1..2, &world.camera, DataDirection::FromDevice).unwrap();
    shares.close(painter, picture).unwrap();
    assert_eq!(world.setup.dma.stats().quarantined, 4 << 12);
    let next = world.create(4, UserView::Cached);
    finish(lease);
    assert_eq!(free - world.setup.free_bytes(), 8 << 12, "the lease is of a buffer that is gone");
    shares.close(painter, next).unwrap();
    assert_eq!(free - world.setup.free_bytes(), 4 << 12);
}

#[test]
fn refusals_say_what_was_found_and_what_would_help() {
    let world = world(2, Plant::None);
    let (shares, [(painter, _), (viewer, _)]) = (world.shares, &world.clients[..]) else { unreachable!() };
    let (painter, viewer) = (*painter, *viewer);
    let picture = world.create(4, UserView::Cached);
    let part = world.offer(0, picture, 1, ShareRights::READ, (0, 2));
    let told = |result: Result<(), ShareError>| result.unwrap_err().to_string();
    let handle = part.to_bits();
    assert_eq!(
        told(shares.set_cpu(viewer, part, 0..2, UserAccess::ReadWrite)),
        format!("handle {handle:#x} gives r--, and rw- is needed: ask its owner for more")
    );
    assert_eq!(
        told(shares.set_cpu(viewer, part, 1..3, UserAccess::Read)),
        "pages 1 to 3 are not in the 2 pages that were granted"
    );
    assert_eq!(
        told(shares.set_cpu(viewer, part, 1..1, UserAccess::Read)),
        "pages 1 to 1 are not in the 2 pages that were granted"
    );
    assert_eq!(
        told(shares.close(viewer, picture)),
        format!("handle {:#x} names nothing of this client's: it was given up or revoked", picture.to_bits())
    );
    assert_eq!(told(shares.find(viewer, "sound").map(drop)), "nothing named \"sound\" was granted to this client");
    let create = |pages: u32| shares.create(painter, &world.camera, pages << 12, UserView::Cached, "more").map(drop);
    assert_eq!(told(create(253)), "253 frames are over the quota: 4 of 256 are in use; give some up");
    assert_eq!(told(create(0)), "allocation of no bytes");
    let driver = shares.add_client("driver", None, QUOTA).unwrap();
    let mine = shares.create(driver, &world.camera, 4096, UserView::Cached, "mine").unwrap();
    let bits = driver.to_bits();
    assert_eq!(
        told(shares.map(driver, mine).map(drop)),
        format!("client {bits:#x} has no address space: a driver maps nothing")
    );
    let seen = shares.map(viewer, part).unwrap();
    assert_eq!(told(shares.map(viewer, part).map(drop)), format!("handle {handle:#x} is mapped already"));
    assert_eq!(
        shares.fault(viewer, seen, UserAccess::ReadWrite).unwrap().to_string(),
        "a page of part, a buffer of client 0, to which it has no more rights than r--"
    );
    let fault = shares.fault(viewer, page(seen, 1), UserAccess::Read).unwrap();
    assert_eq!(fault.to_string(), "page 1 of part, which nobody made the CPU's");
    assert!(matches!(fault, ShareFault::Domain { page: 1, handle, .. } if handle == part));
    let table = format!("{:?}", shares.holders());
    assert_eq!(table.lines().count(), 4, "{table}");
    assert!(table.contains("client 1     part                 0-1     r--    "), "{table}");
}

#[test]
fn a_buffer_falls_into_so_many_parts_and_no_more() {
    let world = world(1, Plant::None);
    let (shares, painter) = (world.shares, world.clients[0].0);
    let picture = world.create(40, UserView::Cached);
    let mut results = (0..20).map(|n| shares.set_cpu(painter, picture, 2 * n..2 * n + 1, UserAccess::ReadWrite));
    assert_eq!(results.position(|result| result == Err(ShareError::TooManyParts)), Some(8));
    let mut parts = 0;
    shares.for_each_domain(painter, picture, |_, _| parts += 1).unwrap();
    assert!(parts <= MAX_PARTS);
    finish(shares.lend(painter, picture, 0..40, &world.camera, DataDirection::ToDevice).unwrap());
    let mut domains = Vec::new();
    shares.for_each_domain(painter, picture, |pages, domain| domains.push((pages, domain))).unwrap();
    assert_eq!(domains, [(0..40, ShareDomain::Nobody)], "one part again");
}

#[test]
fn a_table_of_domains_says_whose_each_page_is() {
    let world = world(1, Plant::None);
    let (shares, painter) = (world.shares, world.clients[0].0);
    let picture = world.create(8, UserView::Cached);
    shares.set_cpu(painter, picture, 0..2, UserAccess::ReadWrite).unwrap();
    shares.set_cpu(painter, picture, 2..3, UserAccess::Read).unwrap();
    let leases = [(3..4, DataDirection::ToDevice), (4..6, DataDirection::FromDevice)]
        .map(|(pages, direction)| shares.lend(painter, picture, pages, &world.camera, direction).unwrap());
    let mut table = Vec::new();
    shares.for_each_domain(painter, picture, |pages, domain| table.push(format!("{pages:?} {domain}"))).unwrap();
    let must = ["0..2 programs, rw-", "2..3 programs, r--", "3..4 camera, r--", "4..6 camera, -w-", "6..8 nobody"];
    assert_eq!(table, must);
    leases.into_iter().for_each(finish);
}

/// Runs something that must break a rule of the fake's.
fn breaks(plant: Plant, rule: &str, work: fn(&World)) {
    let seen = std::panic::catch_unwind(|| work(&world(2, plant)));
    let text = seen.expect_err("nobody noticed");
    let text = text.downcast_ref::<String>().cloned().unwrap_or_default();
    assert!(text.starts_with(rule), "{plant:?}: {text}");
}

/// Has a picture painted, looked at by another, and given to the camera.
fn paint_and_film(world: &World) {
    let (shares, [(painter, paints), (viewer, views)]) = (world.shares, &world.clients[..]) else { unreachable!() };
    let (painter, viewer) = (*painter, *viewer);
    let picture = world.create(4, UserView::Cached);
    let part = world.offer(0, picture, 1, ShareRights::READ, (0, 2));
    let (at, seen) = (shares.map(painter, picture).unwrap(), shares.map(viewer, part).unwrap());
    for _ in 0..3 {
        shares.set_cpu(painter, picture, 0..4, UserAccess::ReadWrite).unwrap();
        paints.write(at, 1);
        assert_eq!(views.read(seen), 1);
        assert_eq!(views.finds(page(seen, 2)), None, "a page too many");
        finish(shares.lend(painter, picture, 0..4, &world.camera, DataDirection::Bidirectional).unwrap());
    }
}

#[test]
fn planted_mistakes_of_an_address_space_are_found() {
    paint_and_film(&world(2, Plant::None));
    breaks(Plant::OtherAttribute, "I1", paint_and_film);
    breaks(Plant::NoInvalidate, "I", paint_and_film);
    breaks(Plant::PageTooMany, "", paint_and_film);
}

/// An address space that shares on what it is told to unmap, as a client on another core can at just that moment.
struct Hasty {
    space: Arc<TestSpace>,
    shares: &'static Shares<Fake>,
    tried: OnceLock<Result<ShareHandle, ShareError>>,
    /// Who tries, with which handle, and who is to get it.
    try_at: OnceLock<(ClientId, ShareHandle, ClientId)>,
}

// SAFETY: the tests have one thread.
unsafe impl Sync for Hasty {}
// SAFETY: as above.
unsafe impl Send for Hasty {}

// SAFETY: `TestSpace` does all the work.
unsafe impl UserSpace for Hasty {
    fn first_level(&self) -> PhysAddr {
        self.space.first_level()
    }

    fn reserve(&self, pages: u32) -> Option<VirtAddr> {
        self.space.reserve(pages)
    }

    fn release(&self, va: VirtAddr, pages: u32) {
        self.space.release(va, pages);
    }

    fn map(&self, va: VirtAddr, part: Part<'_>, access: UserAccess) {
        self.space.map(va, part, access);
    }

    fn unmap(&self, va: VirtAddr, pages: u32) {
        if let Some(&(client, handle, to)) = self.try_at.get() {
            let offer = Offer { to, rights: ShareRights::READ, pages: (0, 1), name: "one more" };
            self.tried.get_or_init(|| self.shares.share(client, handle, &offer));
        }
        self.space.unmap(va, pages);
    }
}

#[test]
fn nobody_grants_faster_than_another_revokes() {
    let world = world(2, Plant::None);
    let (shares, owner, friend) = (world.shares, world.clients[0].0, world.clients[1].0);
    let space = TestSpace::new(world.setup.fake, 2, Plant::None);
    let hasty = Arc::new(Hasty { space, shares, tried: OnceLock::new(), try_at: OnceLock::new() });
    let client = shares.add_client("hasty", Some(hasty.clone()), QUOTA).unwrap();
    let picture = world.create(2, UserView::Cached);
    let offer = Offer { to: client, rights: ShareRights::READ | ShareRights::RESHARE, pages: (0, 2), name: "part" };
    let part = shares.share(owner, picture, &offer).unwrap();
    shares.map(client, part).unwrap();
    hasty.try_at.set((client, part, friend)).unwrap();
    assert_eq!(shares.revoke(owner, picture), Ok(1));
    assert_eq!(hasty.tried.get(), Some(&Err(ShareError::Stale { handle: part })));
    assert_eq!(shares.find(friend, "one more"), Err(ShareError::NoName { name: "one more".into() }));
}

/// Where a process has its tables, and what of it the audit is shown.
const TABLES: PhysAddr = PhysAddr::new(0x601a_0000);

#[test]
fn the_audit_knows_what_a_user_may_have() {
    let world = world(0, Plant::None);
    let (fake, shares) = (world.setup.fake, world.shares);
    let memory = FrameRange::within(TABLES.raw().into(), 4 << FRAME_SHIFT);
    // SAFETY: nothing else uses the memory, no other process has the number, and the tests have one thread.
    let space = Arc::new(unsafe { UserTables::new(fake, Asid::new(1).unwrap(), memory) }.unwrap());
    fake.begin_user(space.root());
    let owner = shares.add_client("owner", None, QUOTA).unwrap();
    let viewer = shares.add_client("viewer", Some(space.clone()), QUOTA).unwrap();
    let picture = shares.create(owner, &world.camera, 4 << FRAME_SHIFT, UserView::Cached, "picture").unwrap();
    let offer = Offer { to: viewer, rights: ShareRights::READ, pages: (1, 3), name: "part" };
    let part = shares.share(owner, picture, &offer).unwrap();
    let at = shares.map(viewer, part).unwrap();
    shares.set_cpu(owner, picture, 0..4, UserAccess::ReadWrite).unwrap();

    let ram = [FrameRange::within(RAM.raw().into(), RAM_BYTES.into())];
    let kernel = Some(KernelMap { ram: &ram, text: FrameRange::EMPTY });
    let roots = [TABLES];
    let expect = Expect { kernel, roots: &roots, users: Some(shares), ..Expect::CARVED };
    let audit = |expect: &Expect<'_>| {
        let mut all = Vec::new();
        let report = world.setup.dma.audit(expect, |finding| all.push(finding));
        (report.ok().map(|report| report.user_pages), all)
    };
    assert_eq!(audit(&expect), (Some(2), vec![]));

    let (first, leaf) = space.translate(at).unwrap();
    let frame = |n: u32| Frame::containing(PhysAddr::new(first.raw() + (n << FRAME_SHIFT)));
    let exposed = |n| Finding::Exposed { va: page(at, n), frame: frame(n) };
    let outside = [0, 1].map(|n| Finding::CarvedOutside { va: page(at, n), frame: frame(n) });
    assert_eq!(audit(&Expect { users: None, ..expect }).1, outside, "nobody says that users may have any");

    // The second-level table of the first section stands behind the two frames of the first-level one.
    let word = |n| PhysAddr::new(TABLES.raw() + (2 << FRAME_SHIFT) + 4 * ((page(at, n).raw() >> FRAME_SHIFT) % 256));
    let plant = |n: u32, access| {
        let desc = L2Desc::user(frame(n).base(), leaf.memory, access, Shareability::Shareable);
        let old = fake.table_word(word(n)).unwrap();
        fake.publish(word(n), &[0]);
        fake.invalidate_user(space.root().asid(), page(at, n), FRAME_SIZE);
        fake.publish(word(n), &[desc.raw()]);
        let found = audit(&expect).1;
        fake.publish(word(n), &[0]);
        fake.invalidate_user(space.root().asid(), page(at, n), FRAME_SIZE);
        fake.publish(word(n), &[old]);
        found
    };
    assert_eq!(plant(2, UserAccess::Read), [exposed(2)], "a page too many");
    assert_eq!(plant(1, UserAccess::ReadWrite), [exposed(1)], "more than it was granted");
    assert_eq!(audit(&expect), (Some(2), vec![]));
}

/// A client's act.
#[derive(Clone, Debug)]
enum Act {
    Create { client: usize, pages: u32, view: UserView },
    Share { grant: usize, to: usize, rights: u8, pages: (u32, u32) },
    Map { grant: usize },
    Unmap { grant: usize },
    SetCpu { grant: usize, pages: (u32, u32), access: UserAccess },
    Lend { grant: usize, pages: (u32, u32), direction: DataDirection },
    Finish { lease: usize },
    Close { grant: usize },
    Revoke { grant: usize },
    Die { client: usize },
}

fn acts() -> impl Strategy<Value = Vec<Act>> {
    let grant = || 0usize..12;
    let pages = || (0u32..6, 0u32..4).prop_map(|(start, count)| (start, start + count));
    let access = prop_oneof![Just(UserAccess::Read), Just(UserAccess::ReadWrite)];
    let view = prop_oneof![Just(UserView::Cached), Just(UserView::WriteCombining)];
    let direction =
        prop_oneof![Just(DataDirection::ToDevice), Just(DataDirection::FromDevice), Just(DataDirection::Bidirectional)];
    let act = prop_oneof![
        2 => (0usize..3, 1u32..8, view).prop_map(|(client, pages, view)| Act::Create { client, pages, view }),
        4 => (grant(), 0usize..3, 0u8..8, pages())
            .prop_map(|(grant, to, rights, pages)| Act::Share { grant, to, rights, pages }),
        6 => grant().prop_map(|grant| Act::Map { grant }),
        1 => grant().prop_map(|grant| Act::Unmap { grant }),
        12 => (grant(), pages(), access).prop_map(|(grant, pages, access)| Act::SetCpu { grant, pages, access }),
        6 => (grant(), pages(), direction).prop_map(|(grant, pages, direction)| Act::Lend { grant, pages, direction }),
        6 => (0usize..4).prop_map(|lease| Act::Finish { lease }),
        1 => grant().prop_map(|grant| Act::Close { grant }),
        1 => grant().prop_map(|grant| Act::Revoke { grant }),
        1 => (0usize..3).prop_map(|client| Act::Die { client }),
    ];
    prop::collection::vec(act, 1..60)
}

/// A page of a buffer, as a naive model has it.
#[derive(Clone, Debug)]
struct ModelPage {
    byte: u8,
    /// Whether programs may read it, and write it.
    cpu: Option<UserAccess>,
    /// The leases that it is in, and whether they write.
    leases: Vec<(usize, bool)>,
}

/// A grant, as a naive model has it.
#[derive(Clone, Debug)]
struct ModelGrant {
    handle: ShareHandle,
    client: usize,
    buffer: usize,
    rights: u8,
    first: u32,
    count: u32,
    /// The number of the grant that it was made from, which may be gone.
    parents: Vec<usize>,
    at: Option<VirtAddr>,
}

/// A lease: the buffer, its pages, and the proof.
type ModelLease = (usize, std::ops::Range<usize>, DeviceLease<Fake>);

/// What must be true, in the simplest words: each buffer's pages, each grant in a list, in the order of their making.
#[derive(Default)]
struct Model {
    buffers: Vec<Option<Vec<ModelPage>>>,
    grants: Vec<Option<ModelGrant>>,
    leases: Vec<Option<ModelLease>>,
    /// Frames of buffers that a device had when their last client went.
    lost: u32,
}

const RIGHTS: [ShareRights; 3] = [ShareRights::READ, ShareRights::WRITE, ShareRights::RESHARE];

fn rights(bits: u8) -> ShareRights {
    (0..3).filter(|n| bits >> n & 1 == 1).fold(ShareRights::default(), |all, n| all | RIGHTS[n])
}

impl Model {
    fn live(&self, n: usize) -> Option<&ModelGrant> {
        let live: Vec<_> = self.grants.iter().flatten().collect();
        if live.is_empty() { None } else { Some(live[n % live.len()]) }
    }

    fn place(&self, handle: ShareHandle) -> usize {
        self.grants.iter().position(|grant| grant.as_ref().is_some_and(|grant| grant.handle == handle)).unwrap()
    }

    /// Ends a grant, and its buffer if it was the last.
    fn end(&mut self, place: usize) {
        let gone = self.grants[place].take().unwrap();
        if !self.grants.iter().flatten().any(|grant| grant.buffer == gone.buffer) {
            let pages = self.buffers[gone.buffer].take().unwrap();
            if pages.iter().any(|page| !page.leases.is_empty()) {
                self.lost += pages.len() as u32;
            }
        }
    }

    /// Returns the pages of a buffer that a grant has, of which `pages` are asked for.
    fn asked(grant: &ModelGrant, pages: (u32, u32)) -> Option<std::ops::Range<usize>> {
        let (start, end) = pages;
        (start < end && end <= grant.count).then(|| (grant.first + start) as usize..(grant.first + end) as usize)
    }
}

/// Grants pages to another client.
fn share(world: &World, model: &mut Model, grant: usize, to: usize, bits: u8, pages: (u32, u32)) {
    let shares = world.shares;
    let Some(from) = model.live(grant).cloned() else { return };
    let offer = Offer { to: world.clients[to].0, rights: rights(bits), pages, name: "shared" };
    let made = shares.share(world.clients[from.client].0, from.handle, &offer);
    let asked = Model::asked(&from, pages);
    match made {
        Ok(handle) => {
            assert!(from.rights & 4 != 0 && bits & !from.rights == 0, "more than it has");
            let pages = asked.expect("pages that it has");
            let mut parents = from.parents.clone();
            parents.push(model.place(from.handle));
            let (first, count) = (pages.start as u32, pages.len() as u32);
            let grant = ModelGrant { handle, client: to, rights: bits, first, count, parents, at: None, ..from };
            model.grants.push(Some(grant));
        }
        Err(ShareError::Rights { .. }) => assert!(from.rights & 4 == 0 || bits & !from.rights != 0),
        Err(ShareError::Outside { .. }) => assert_eq!(asked, None),
        Err(error) => assert!(matches!(error, ShareError::Full { .. }), "{error}"),
    }
}

/// Gives pages to the device, which reads what is there and writes if it may.
fn lend(world: &World, model: &mut Model, grant: usize, pages: (u32, u32), direction: DataDirection) {
    let shares = world.shares;
    let Some(from) = model.live(grant).cloned() else { return };
    let client = world.clients[from.client].0;
    let made = shares.lend(client, from.handle, pages.0..pages.1, &world.camera, direction);
    let writes = direction.device_writes();
    let needs = if writes { 2 } else { 1 };
    let Some(asked) = Model::asked(&from, pages).filter(|_| from.rights & needs == needs) else {
        assert!(matches!(made, Err(ShareError::Outside { .. } | ShareError::Rights { .. })));
        return;
    };
    let buffer = model.buffers[from.buffer].as_mut().unwrap();
    let others: Vec<_> = buffer[asked.clone()].iter().map(|page| page.leases.clone()).collect();
    let Ok(lease) = made else {
        assert!(others.iter().any(|leases| !leases.is_empty()), "nobody else has them");
        return;
    };
    assert!(others.iter().all(|leases| leases.is_empty() || !writes && leases.iter().all(|lease| !lease.1)));
    let number = model.leases.len();
    for page in &mut buffer[asked.clone()] {
        page.cpu = None;
        page.leases.push((number, writes));
    }
    let bus = lease.bus().raw();
    for (n, page) in asked.clone().enumerate() {
        let at = PhysAddr::new(bus + ((n as u32) << FRAME_SHIFT) + 64);
        assert_eq!(world.setup.fake.device_read(at, 1), [buffer[page].byte], "what the device reads");
        if writes {
            buffer[page].byte = buffer[page].byte.wrapping_add(31);
            world.setup.fake.device_write(at, &[buffer[page].byte]);
        }
    }
    model.leases.push(Some((from.buffer, asked, lease)));
}

/// Does an act, in the model and in truth, and compares what comes of it.
fn act(world: &mut World, model: &mut Model, act: &Act) {
    let shares = world.shares;
    match *act {
        Act::Create { client, pages, view } => {
            let made = shares.create(world.clients[client].0, &world.camera, pages << FRAME_SHIFT, view, "made");
            let Ok(handle) = made else {
                assert!(matches!(made, Err(ShareError::Full { .. } | ShareError::Quota { .. })), "{made:?}");
                return;
            };
            let page = ModelPage { byte: 0, cpu: None, leases: Vec::new() };
            model.buffers.push(Some(vec![page; pages as usize]));
            let buffer = model.buffers.len() - 1;
            let (rights, first, parents) = (7, 0, Vec::new());
            let grant = ModelGrant { handle, client, buffer, rights, first, count: pages, parents, at: None };
            model.grants.push(Some(grant));
        }
        Act::Share { grant, to, rights, pages } => share(world, model, grant, to, rights, pages),
        Act::Map { grant } => {
            let Some(from) = model.live(grant).cloned() else { return };
            let made = shares.map(world.clients[from.client].0, from.handle);
            let place = model.place(from.handle);
            match made {
                Ok(va) => {
                    assert!(from.at.is_none() && from.rights & 1 != 0);
                    model.grants[place].as_mut().unwrap().at = Some(va);
                }
                Err(ShareError::Mapped { .. }) => assert!(from.at.is_some()),
                Err(error) => assert!(from.rights & 1 == 0, "{error}"),
            }
        }
        Act::Unmap { grant } => {
            let Some(from) = model.live(grant).cloned() else { return };
            shares.unmap(world.clients[from.client].0, from.handle).unwrap();
            let place = model.place(from.handle);
            model.grants[place].as_mut().unwrap().at = None;
        }
        Act::SetCpu { grant, pages, access } => {
            let Some(from) = model.live(grant).cloned() else { return };
            let done = shares.set_cpu(world.clients[from.client].0, from.handle, pages.0..pages.1, access);
            let needs = if access == UserAccess::ReadWrite { 3 } else { 1 };
            let Some(asked) = Model::asked(&from, pages).filter(|_| from.rights & needs == needs) else {
                assert!(matches!(done, Err(ShareError::Outside { .. } | ShareError::Rights { .. })), "{done:?}");
                return;
            };
            let buffer = model.buffers[from.buffer].as_mut().unwrap();
            let lent = buffer[asked.clone()].iter().any(|page| !page.leases.is_empty());
            match done {
                Ok(()) => {
                    assert!(!lent, "I4");
                    for page in &mut buffer[asked] {
                        page.cpu = page.cpu.max(Some(access));
                    }
                }
                Err(error) => assert!(lent, "{error}"),
            }
        }
        Act::Lend { grant, pages, direction } => lend(world, model, grant, pages, direction),
        Act::Finish { lease } => {
            let open: Vec<_> = (0..model.leases.len()).filter(|&n| model.leases[n].is_some()).collect();
            let Some(&number) = open.get(lease % open.len().max(1)) else { return };
            let (buffer, range, lease) = model.leases[number].take().unwrap();
            finish(lease);
            if let Some(pages) = &mut model.buffers[buffer] {
                for page in &mut pages[range] {
                    page.leases.retain(|lease| lease.0 != number);
                }
            }
        }
        Act::Close { grant } => {
            let Some(from) = model.live(grant).cloned() else { return };
            shares.close(world.clients[from.client].0, from.handle).unwrap();
            model.end(model.place(from.handle));
        }
        Act::Revoke { grant } => {
            let Some(from) = model.live(grant).cloned() else { return };
            let place = model.place(from.handle);
            let of = |grant: &ModelGrant| grant.parents.contains(&place);
            let gone: Vec<_> = (0..model.grants.len()).filter(|&n| model.grants[n].as_ref().is_some_and(of)).collect();
            assert_eq!(shares.revoke(world.clients[from.client].0, from.handle), Ok(gone.len() as u32));
            for n in gone {
                model.end(n);
            }
        }
        Act::Die { client } => {
            let has = |grant: &ModelGrant| grant.client == client;
            let gone: Vec<_> = (0..model.grants.len()).filter(|&n| model.grants[n].as_ref().is_some_and(has)).collect();
            assert_eq!(shares.remove_client(world.clients[client].0), Ok(gone.len() as u32));
            for n in gone {
                model.end(n);
            }
            let space = world.clients[client].1.clone();
            world.clients[client].0 = shares.add_client("born again", Some(space), QUOTA).unwrap();
        }
    }
}

/// Compares what every user finds with the model: which pages are there, with which rights, and what is in them.
fn look(world: &World, model: &mut Model, step: u8) {
    for grant in model.grants.iter().flatten() {
        let Some(at) = grant.at else { continue };
        let space = &world.clients[grant.client].1;
        let buffer = model.buffers[grant.buffer].as_mut().unwrap();
        for n in 0..grant.count {
            let (va, page) = (page(at, n), &mut buffer[(grant.first + n) as usize]);
            let found = space.finds(va).map(|(_, writable)| writable);
            let wanted = page.cpu.map(|access| access == UserAccess::ReadWrite && grant.rights & 2 != 0);
            assert_eq!(found, wanted, "page {n} of {grant:?}: {page:?}");
            let there = VirtAddr::new(va.raw() + 64);
            if found.is_some() {
                assert_eq!(space.read(there), page.byte, "page {n} of {grant:?}");
            }
            if found == Some(true) {
                page.byte = page.byte.wrapping_add(step | 1);
                space.write(there, page.byte);
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]

    /// I1 to I5: random clients, grants, domains, devices, deaths and revocations.
    #[test]
    fn nothing_outlives_its_right_and_nothing_leaks(acts in acts()) {
        let mut world = world(3, Plant::None);
        let mut model = Model::default();
        let all = world.setup.free_bytes();
        for (n, one) in acts.iter().enumerate() {
            act(&mut world, &mut model, one);
            look(&world, &mut model, n as u8);
        }
        for client in 0..3 {
            act(&mut world, &mut model, &Act::Die { client });
        }
        let lost = u64::from(model.lost) << FRAME_SHIFT;
        prop_assert_eq!(world.setup.free_bytes(), all - lost, "I5: what nobody has is free");
        prop_assert_eq!(world.setup.dma.stats().quarantined, lost);
        prop_assert!(world.setup.audit().is_ok());
    }
}
