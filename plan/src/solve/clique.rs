//! Maximal cliques, by Bron and Kerbosch with Tomita's choice of the pivot.

/// The most cliques that are listed. More of them would make no bound wrong, only weaker.
const MOST: usize = 4096;

/// Returns the maximal groups of `count` things of which every two are `together`.
pub fn maximal(count: usize, together: impl Fn(usize, usize) -> bool) -> Vec<Vec<usize>> {
    let near: Vec<Vec<bool>> = (0..count).map(|a| (0..count).map(|b| a != b && together(a, b)).collect()).collect();
    let mut found = Vec::new();
    if count > 0 {
        extend(&near, &mut Vec::new(), (0..count).collect(), Vec::new(), &mut found);
    }
    found
}

fn extend(near: &[Vec<bool>], chosen: &mut Vec<usize>, may: Vec<usize>, not: Vec<usize>, found: &mut Vec<Vec<usize>>) {
    if found.len() >= MOST {
        return;
    }
    if may.is_empty() && not.is_empty() {
        let mut clique = chosen.clone();
        clique.sort_unstable();
        found.push(clique);
        return;
    }
    let reach = |&pivot: &usize| may.iter().filter(|&&other| near[pivot][other]).count();
    let Some(pivot) = may.iter().chain(&not).copied().max_by_key(reach) else { return };
    let (mut left, mut done) = (may.clone(), not);
    for next in may.into_iter().filter(|&next| !near[pivot][next]) {
        let of = |all: &[usize]| all.iter().copied().filter(|&other| near[next][other]).collect::<Vec<_>>();
        chosen.push(next);
        extend(near, chosen, of(&left), of(&done), found);
        chosen.pop();
        left.retain(|&other| other != next);
        done.push(next);
    }
}
