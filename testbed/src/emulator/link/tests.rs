//! Laws of one direction of a link, over a virtual clock.

use proptest::prelude::*;

use super::*;

const MS: Nanos = 1_000_000;

fn drain(link: &mut Link<u32>) -> Vec<(Nanos, u32, Vec<u8>)> {
    let mut out = Vec::new();
    while let Some(due) = link.due() {
        let (to, packet) = link.take(due).unwrap();
        out.push((due, to, packet));
    }
    out
}

fn shape() -> impl Strategy<Value = Shape> {
    let shares = (0.0..0.5f64, 0.0..0.5f64, 0.0..0.5f64, 0.0..0.5f64);
    let flow = (prop::option::of(10_000u64..1_000_000_000), prop::option::of(64usize..1500));
    let bursts = prop::option::of((0.0..0.2f64, 0.1..1.0f64, 0.0..1.0f64));
    (0u64..200, 0u64..50, shares, flow, bursts, any::<bool>()).prop_map(
        |(delay, jitter, (loss, reorder, duplicate, corrupt), (rate, mtu), bursts, up)| Shape {
            up,
            delay: Span::from_millis(delay),
            jitter: Span::from_millis(jitter),
            loss: Share(loss),
            bursts: bursts.map(|(a, b, c)| Bursts { enter: Share(a), leave: Share(b), loss: Share(c) }),
            rate: rate.map(Rate),
            queue: Span::from_millis(50),
            reorder: Share(reorder),
            duplicate: Share(duplicate),
            corrupt: Share(corrupt),
            mtu,
        },
    )
}

proptest! {
    #[test]
    fn every_packet_is_accounted_for(shape in shape(), seed: u64,
        packets in prop::collection::vec((0u64..5 * MS, 1usize..1600), 0..200)) {
        let mut link = Link::new(shape, seed);
        let mut now = 0;
        for (index, (pause, size)) in packets.iter().enumerate() {
            now += pause;
            link.offer(now, index as u32, vec![0; *size]);
        }
        let out = drain(&mut link);
        let c = link.counts();
        prop_assert_eq!(c.offered, packets.len() as u64);
        prop_assert_eq!(c.offered, c.passed + c.lost + c.queue_full + c.too_big + c.cut);
        prop_assert_eq!(out.len() as u64, c.passed + c.duplicated);
    }

    #[test]
    fn equal_seeds_give_equal_fates(shape in shape(), seed: u64, count in 0u32..200) {
        let run = || {
            let mut link = Link::new(shape, seed);
            for index in 0..count {
                link.offer(u64::from(index) * MS, index, vec![7; 300]);
            }
            drain(&mut link)
        };
        prop_assert_eq!(run(), run());
    }

    #[test]
    fn without_reordering_packets_come_out_in_order_and_never_early(
        mut shape in shape(), seed: u64, pauses in prop::collection::vec(0u64..5 * MS, 0..200)) {
        shape.reorder = Share(0.0);
        let mut link = Link::new(shape, seed);
        let mut offered = Vec::new();
        let mut now = 0;
        for (index, pause) in pauses.iter().enumerate() {
            now += pause;
            offered.push(now);
            link.offer(now, index as u32, vec![0; 100]);
        }
        let mut last = 0;
        for (due, index, _) in drain(&mut link) {
            prop_assert!(index >= last);
            prop_assert!(due >= offered[index as usize] + shape.delay.nanos());
            last = index;
        }
    }

    #[test]
    fn a_corrupted_packet_differs_in_one_bit(seed: u64) {
        let mut link = Link::new(Shape { corrupt: Share(1.0), ..Shape::default() }, seed);
        link.offer(0, 0, vec![0; 64]);
        let (_, _, packet) = drain(&mut link).remove(0);
        prop_assert_eq!(packet.iter().map(|b| b.count_ones()).sum::<u32>(), 1);
    }
}

#[test]
fn loss_is_within_a_tenth_of_its_value_over_100000_packets() {
    for (loss, seed) in [(0.01, 1), (0.02, 2), (0.1, 3)] {
        let mut link = Link::new(Shape { loss: Share(loss), ..Shape::default() }, seed);
        for _ in 0..100_000 {
            link.offer(0, 0, Vec::new());
        }
        let seen = link.counts().lost as f64 / 100_000.0;
        assert!((seen - loss).abs() < loss / 10.0, "{seen} is not {loss}");
    }
}

#[test]
fn bursts_have_the_length_and_share_of_their_model() {
    let bursts = Bursts { enter: Share(0.01), leave: Share(0.25), loss: Share(1.0) };
    let mut link = Link::new(Shape { bursts: Some(bursts), ..Shape::default() }, 5);
    let (mut runs, mut lost, mut previous) = (0u32, 0u32, false);
    for _ in 0..200_000 {
        let before = link.counts().lost;
        link.offer(0, 0, Vec::new());
        let now_lost = link.counts().lost > before;
        runs += u32::from(now_lost && !previous);
        lost += u32::from(now_lost);
        previous = now_lost;
    }
    let share = f64::from(lost) / 200_000.0;
    let mean = f64::from(lost) / f64::from(runs);
    assert!((share - 0.01 / 0.26).abs() < 0.004, "share {share}");
    assert!((mean - 4.0).abs() < 0.4, "mean burst {mean}");
}

#[test]
fn the_rate_spaces_packets_and_the_queue_drops_at_its_tail() {
    let shape = Shape { rate: Some(Rate(8_000_000)), queue: Span::from_millis(10), ..Shape::default() };
    let mut link = Link::new(shape, 1);
    for index in 0..20 {
        link.offer(0, index, vec![0; 1000]);
    }
    let out = drain(&mut link);
    assert_eq!(out.len(), 11, "10 ms of queue at 1 ms a packet, and the one on the wire");
    assert!(out.windows(2).all(|pair| pair[1].0 - pair[0].0 == MS));
    assert_eq!(link.counts().queue_full, 9);
}

#[test]
fn a_cut_link_loses_what_was_under_way_and_lets_nothing_pass() {
    let mut link = Link::new(Shape { delay: Span::from_millis(20), ..Shape::default() }, 1);
    link.offer(0, 0, vec![1]);
    link.reshape(Shape { up: false, ..Shape::default() });
    link.offer(1, 1, vec![1]);
    assert!(drain(&mut link).is_empty());
    link.reshape(Shape::default());
    link.offer(2, 2, vec![1]);
    assert_eq!(drain(&mut link), vec![(2, 2, vec![1])]);
}

#[test]
fn a_packet_above_the_mtu_vanishes() {
    let mut link = Link::new(Shape { mtu: Some(1280), ..Shape::default() }, 1);
    link.offer(0, 0, vec![0; 1281]);
    link.offer(0, 1, vec![0; 1280]);
    assert_eq!(drain(&mut link).len(), 1);
    assert_eq!(link.counts().too_big, 1);
}
