//! The state machine of RFC 4271 section 8.2.2. Functions are named after events, in the order of a session's life.

use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};

use super::{
    ConnId, Event, Failure, Input, Phase, Refresh, Session, Stop,
    collision::{self, Verdict},
    connection::{Direction, Stage},
    negotiate::{self, Negotiated, OpenState},
    timer::{Slot, Timer},
};
use crate::bgp::wire::{
    self, Action, DecodeContext, EncodeContext, Message, Notification, Open, RouteRefresh, Update, WireError,
    code::{self, cease, error},
};

/// What follows the end of a connection when no other one is left.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// To Active: dial again after ConnectRetryTimer. Nobody did anything wrong.
    Retry,
    /// A failure: to Idle for a while that grows with each failure. After a session that had been up, the first one
    /// leads to Active instead, so that the peer can come back at once.
    Damp,
    /// To Idle for so long.
    After(Duration),
    /// To Idle until started.
    Stay,
}

pub(super) fn handle(session: &mut Session, now: Instant, input: Input) {
    match input {
        Input::Start => start(session, now),
        Input::Stop(stop) => self::stop(session, now, stop),
        Input::Connected(id) => with_slot(session, id, |s, slot| connected(s, now, slot)),
        Input::DialFailed(id, why) => {
            with_slot(session, id, |s, slot| end(s, now, slot, Failure::Dial(why), Next::Retry, true));
        }
        Input::Bytes(id, bytes) => with_slot(session, id, |s, slot| bytes_in(s, now, slot, &bytes)),
        Input::Closed(id, why) => with_slot(session, id, |s, slot| closed(s, now, slot, why)),
        Input::Wrote { conn, progress, pending } => {
            with_slot(session, conn, |s, slot| wrote(s, now, slot, progress, pending));
        }
        Input::ReadPaused(id, paused) => with_slot(session, id, |s, slot| read_paused(s, now, slot, paused)),
        Input::RetryNow => {
            if session.timers.deadline(Timer::ConnectRetry).is_some() {
                session.timers.set(Timer::ConnectRetry, now);
            }
        }
        Input::RequestRefresh(family) => {
            let able = session.negotiated().is_some_and(|n| n.route_refresh && n.families[family]);
            if let Some(id) = session.established().filter(|_| able) {
                let (afi, safi) = negotiate::family_to_wire(family);
                send(session, id, &Message::RouteRefresh(RouteRefresh { afi, subtype: 0, safi }));
            }
        }
        Input::BfdUp => {
            session.bfd_up = true;
            reconfigured(session, now);
        }
        Input::BfdWaiting => {
            session.bfd_up = false;
            wait_for_bfd(session);
        }
    }
}

/// What the session waited for may have come, or is no longer asked for. KEEPALIVEs have their new interval at once.
pub(super) fn reconfigured(session: &mut Session, now: Instant) {
    for slot in Slot::BOTH {
        let Some(Stage::Established { negotiated, .. }) =
            session.connections[slot as usize].as_mut().map(|c| &mut c.stage)
        else {
            continue;
        };
        let interval = negotiate::keepalive(&session.config, negotiated.hold_time);
        if std::mem::replace(&mut negotiated.keepalive, interval) != interval {
            schedule_keepalive(session, now, slot, interval);
        }
    }
    if session.phase == Phase::Waiting && session.timers.deadline(Timer::IdleHold).is_none() {
        run(session, now);
    }
}

fn with_slot(session: &mut Session, id: ConnId, then: impl FnOnce(&mut Session, Slot)) {
    if let Some(slot) = session.slot_of(id) {
        then(session, slot);
    }
}

pub(super) fn expire(session: &mut Session, now: Instant, timer: Timer) {
    match timer {
        Timer::IdleHold => {
            if session.phase == Phase::Waiting {
                run(session, now);
            }
        }
        Timer::ConnectRetry => connect_retry(session, now),
        Timer::DelayOpen(slot) => send_open(session, now, slot),
        Timer::Hold(slot) => hold_expired(session, now, slot),
        Timer::Keepalive(slot) => keepalive_due(session, now, slot),
        Timer::SendHold(slot) => {
            // RFC 9687 section 4: the NOTIFICATION would only queue behind what the peer does not take.
            end(session, now, slot, Failure::SendHold, Next::Damp, true);
        }
    }
}

/// ManualStart, AutomaticStart.
fn start(session: &mut Session, now: Instant) {
    match session.phase {
        Phase::Running => {}
        Phase::Stopped => {
            session.failures = 0;
            run(session, now);
        }
        Phase::Waiting => run(session, now),
    }
}

/// From Idle to Connect, or to Active when passive.
fn run(session: &mut Session, now: Instant) {
    session.timers.stop(Timer::IdleHold);
    if session.config.bfd_strict && !session.bfd_up {
        session.phase = Phase::Waiting;
        return;
    }
    session.phase = Phase::Running;
    if !session.config.passive {
        dial(session, now);
    }
}

fn dial(session: &mut Session, now: Instant) {
    let Some(slot) = session.free_slot() else { return };
    let id = session.open_connection(slot, Direction::Outgoing, now);
    restart_connect_retry(session, now);
    session.events.push_back(Event::Dial(id));
}

fn restart_connect_retry(session: &mut Session, now: Instant) {
    let wait = session.jitter.apply(session.config.timers.connect_retry);
    // A zero wait would make the caller's loop spin.
    session.timers.set(Timer::ConnectRetry, now + wait.max(Duration::from_millis(1)));
}

/// ConnectRetryTimer_Expires: gives up the dial that hangs, dials again.
fn connect_retry(session: &mut Session, now: Instant) {
    if session.phase != Phase::Running || session.config.passive {
        return;
    }
    let outgoing = Slot::BOTH
        .into_iter()
        .find(|slot| session.connection(*slot).is_some_and(|c| c.direction == Direction::Outgoing));
    if let Some(slot) = outgoing {
        if !matches!(session.connection(slot).map(|c| &c.stage), Some(Stage::Dialing)) {
            return;
        }
        let failure = Failure::Dial("connection timed out".to_owned());
        end(session, now, slot, failure, Next::Retry, true);
    }
    if session.connections.iter().flatten().all(|c| c.negotiated().is_none()) {
        dial(session, now);
    }
}

/// Tcp_CR_Acked.
fn connected(session: &mut Session, now: Instant, slot: Slot) {
    let Some(connection) = session.connection(slot) else { return };
    if matches!(connection.stage, Stage::Dialing) && connection.direction == Direction::Outgoing {
        session.timers.stop(Timer::ConnectRetry);
        opened(session, now, slot);
    }
}

/// TcpConnectionConfirmed. ConnectRetryTimer runs on until an OPEN has come: a peer that connects and then says
/// nothing must not keep us from dialing.
pub(super) fn accept(session: &mut Session, now: Instant) -> Option<ConnId> {
    // RFC 4271 section 8.2.2, Idle: "refuses all incoming BGP connections".
    if session.phase != Phase::Running {
        return None;
    }
    let replaceable = |slot: &Slot| {
        session.connection(*slot).is_some_and(|c| c.direction == Direction::Incoming && !c.is_established())
    };
    // A peer that connects again has given up its earlier attempt.
    let slot = match Slot::BOTH.into_iter().find(replaceable) {
        Some(older) => {
            close_collided(session, older);
            older
        }
        None => session.free_slot()?,
    };
    let id = session.open_connection(slot, Direction::Incoming, now);
    opened(session, now, slot);
    Some(id)
}

/// TCP is up: OPEN now, or after the peer's.
fn opened(session: &mut Session, now: Instant, slot: Slot) {
    let delay = session.config.timers.delay_open;
    if delay.is_zero() {
        send_open(session, now, slot);
    } else if let Some(connection) = session.connection_mut(slot) {
        connection.stage = Stage::DelayOpen;
        session.timers.set(Timer::DelayOpen(slot), now + delay);
    }
}

fn open_state(session: &Session) -> OpenState {
    OpenState { restarting: session.restarting, forwarding: session.forwarding, bare: session.bare }
}

fn send_open(session: &mut Session, now: Instant, slot: Slot) {
    let open = negotiate::our_open(&session.config, open_state(session));
    let Some(connection) = session.connection_mut(slot) else { return };
    connection.stage = Stage::OpenSent;
    connection.reader.set_extended_message(true);
    let id = connection.id;
    session.timers.stop(Timer::DelayOpen(slot));
    session.timers.set(Timer::Hold(slot), now + session.config.timers.open_hold);
    let sent = send(session, id, &Message::Open(open));
    if let Some(connection) = session.connection_mut(slot) {
        connection.opens.sent = sent;
    }
}

/// Encodes and queues. Nothing that the session itself sends can fail to encode, except an OPEN whose host name is
/// too long; the peer then gets nothing and its own timers decide. Returns what was queued.
fn send(session: &mut Session, id: ConnId, message: &Message) -> Bytes {
    let mut bytes = BytesMut::new();
    if wire::encode(&EncodeContext::default(), message, &mut bytes).is_err() {
        return Bytes::new();
    }
    let bytes = bytes.freeze();
    session.transmit(id, bytes.clone());
    bytes
}

fn bytes_in(session: &mut Session, now: Instant, slot: Slot, bytes: &Bytes) {
    let Some(connection) = session.connection_mut(slot) else { return };
    let id = connection.id;
    connection.reader.push(bytes);
    // A message may end the connection, and the slot may then hold another.
    while let Some(connection) = session.connection_mut(slot).filter(|c| c.id == id) {
        let frame = match connection.reader.next_frame() {
            Ok(None) => {
                if connection.reader.pending() == 0 {
                    // An idle peer holds no buffer.
                    *connection.reader.buffer_mut() = BytesMut::new();
                }
                return;
            }
            Ok(Some(frame)) => frame,
            Err(error) => return wire_error(session, now, slot, &error),
        };
        let context = match connection.negotiated() {
            Some(negotiated) => negotiated.decode_context(),
            None => DecodeContext { extended_message: true, ..DecodeContext::default() },
        };
        session.counters.messages_received += 1;
        match wire::decode(&context, &frame).into_result() {
            Ok((message, errors)) => self::message(session, now, slot, message, errors, frame),
            Err(error) => return wire_error(session, now, slot, &error),
        }
    }
}

/// BGPHeaderErr, BGPOpenMsgErr, UpdateMsgErr.
fn wire_error(session: &mut Session, now: Instant, slot: Slot, error: &WireError) {
    debug_assert_eq!(error.action, Action::Reset);
    // A message of the wrong kind for the state is the graver fault, and its contents do not matter.
    let established = session.connection(slot).is_some_and(super::connection::Connection::is_established);
    if error.code == error::UPDATE && !established {
        return unexpected(session, now, slot, code::message::UPDATE);
    }
    fail(session, now, slot, error.notification(), error.reason.to_string());
}

fn message(
    session: &mut Session,
    now: Instant,
    slot: Slot,
    message: Message,
    errors: Vec<WireError>,
    raw: Bytes,
) {
    let Some(connection) = session.connection_mut(slot) else { return };
    if matches!(message, Message::Open(_)) {
        // A copy: the frame is a piece of a larger buffer.
        connection.opens.received = Bytes::copy_from_slice(&raw);
    }
    match (&connection.stage, message) {
        (_, Message::Notification(notification)) => notified(session, now, slot, notification),
        (Stage::DelayOpen | Stage::OpenSent, Message::Open(open)) => open_in(session, now, slot, &open),
        (Stage::OpenConfirm(_), Message::Keepalive) => establish(session, now, slot),
        (Stage::Established { .. }, Message::Keepalive) => restart_hold(session, now, slot),
        (Stage::Established { .. }, Message::Update(update)) => {
            update_in(session, now, slot, update, errors, raw);
        }
        (Stage::Established { .. }, Message::RouteRefresh(refresh)) => {
            refresh_in(session, now, slot, refresh);
        }
        (_, Message::Open(_)) => unexpected(session, now, slot, code::message::OPEN),
        (_, Message::Keepalive) => unexpected(session, now, slot, code::message::KEEPALIVE),
        (_, Message::Update(_)) => unexpected(session, now, slot, code::message::UPDATE),
        (_, Message::RouteRefresh(_)) => unexpected(session, now, slot, code::message::ROUTE_REFRESH),
    }
}

/// A message that has no place in the state (RFC 6608 section 3). The data is the type of the message (section 4).
fn unexpected(session: &mut Session, now: Instant, slot: Slot, kind: u8) {
    let (subcode, state) = match session.connection(slot).map(|c| &c.stage) {
        Some(Stage::OpenSent) => (1, "OpenSent"),
        Some(Stage::OpenConfirm(_)) => (2, "OpenConfirm"),
        Some(Stage::Established { .. }) => (3, "Established"),
        _ => (0, "Active"),
    };
    let notification = Notification { code: error::FSM, subcode, data: Bytes::copy_from_slice(&[kind]) };
    fail(session, now, slot, notification, format!("{} in {state}", code::message_name(kind)));
}

/// BGPOpen, also with DelayOpenTimer running.
fn open_in(session: &mut Session, now: Instant, slot: Slot, open: &Open) {
    let negotiated = match negotiate::negotiate(&session.config, open_state(session), open) {
        Ok(negotiated) => negotiated,
        Err(failure) => return refuse(session, now, slot, failure),
    };
    let other = slot.other();
    let verdict = match (session.connection(slot), session.connection(other)) {
        (Some(new), Some(old)) => collision::judge(&session.config, new, &negotiated, old),
        _ => Verdict::Both,
    };
    match verdict {
        Verdict::Both => {}
        Verdict::CloseNew => return close_collided(session, slot),
        Verdict::CloseOther => close_collided(session, other),
        Verdict::Replace => end(session, now, other, Failure::Replaced, Next::Retry, true),
    }
    if matches!(session.connection(slot).map(|c| &c.stage), Some(Stage::DelayOpen)) {
        send_open(session, now, slot);
    }
    let (hold, keepalive) = (negotiated.hold_time, negotiated.keepalive);
    let Some(connection) = session.connection_mut(slot) else { return };
    let id = connection.id;
    connection.stage = Stage::OpenConfirm(Box::new(negotiated));
    session.timers.stop(Timer::ConnectRetry);
    // With a hold time of zero nothing would bound the wait for the peer's KEEPALIVE.
    let hold = if hold.is_zero() { session.config.timers.open_hold } else { hold };
    session.timers.set(Timer::Hold(slot), now + hold);
    send(session, id, &Message::Keepalive);
    schedule_keepalive(session, now, slot, keepalive);
}

fn schedule_keepalive(session: &mut Session, now: Instant, slot: Slot, interval: Duration) {
    if !interval.is_zero() {
        let wait = session.jitter.apply(interval);
        session.timers.set(Timer::Keepalive(slot), now + wait);
    }
}

/// KeepAliveMsg in OpenConfirm.
fn establish(session: &mut Session, now: Instant, slot: Slot) {
    let Some(connection) = session.connection_mut(slot) else { return };
    let id = connection.id;
    let Stage::OpenConfirm(negotiated) = std::mem::replace(&mut connection.stage, Stage::OpenSent) else {
        return;
    };
    connection.stage = Stage::Established { negotiated: negotiated.clone(), since: now };
    let opens = Box::new(std::mem::take(&mut connection.opens));
    let other = slot.other();
    // What has not sent OPEN yet is dropped; an OPEN on its way is answered by the collision rules when it comes.
    if session.connection(other).is_some_and(|c| !c.is_open_sent()) {
        drop_connection(session, other, true);
    }
    session.timers.stop(Timer::ConnectRetry);
    restart_hold(session, now, slot);
    session.counters.established += 1;
    session.restarting = false;
    session.forwarding = true;
    session.events.push_back(Event::Established { conn: id, negotiated, opens });
}

fn restart_hold(session: &mut Session, now: Instant, slot: Slot) {
    let hold = session.connection(slot).and_then(|c| c.negotiated()).map(|n| n.hold_time);
    match hold {
        Some(hold) if !hold.is_zero() => session.timers.set(Timer::Hold(slot), now + hold),
        _ => session.timers.stop(Timer::Hold(slot)),
    }
}

fn update_in(
    session: &mut Session,
    now: Instant,
    slot: Slot,
    update: Update,
    errors: Vec<WireError>,
    raw: Bytes,
) {
    session.counters.updates_received += 1;
    match errors.iter().map(|error| error.action).max() {
        Some(Action::Withdraw | Action::Reset) => session.counters.updates_withdrawn += 1,
        Some(Action::Discard) => session.counters.updates_discarded += 1,
        None => {}
    }
    restart_hold(session, now, slot);
    session.events.push_back(Event::Update { update, errors, raw });
}

fn refresh_in(session: &mut Session, now: Instant, slot: Slot, refresh: RouteRefresh) {
    restart_hold(session, now, slot);
    let Some(negotiated) = session.negotiated() else { return };
    // RFC 2918 section 4: a family that was not negotiated is ignored; so is a subtype that does not exist, or that
    // was not negotiated (RFC 7313 section 5).
    let Some(family) = negotiate::family_from_wire(refresh.afi, refresh.safi) else { return };
    let kind = match refresh.subtype {
        0 => Refresh::Request,
        1 if negotiated.enhanced_refresh => Refresh::Begin,
        2 if negotiated.enhanced_refresh => Refresh::End,
        _ => return,
    };
    if negotiated.families[family] {
        session.events.push_back(Event::Refresh(family, kind));
    }
}

fn keepalive_due(session: &mut Session, now: Instant, slot: Slot) {
    let Some(connection) = session.connection(slot) else { return };
    let (id, interval) = (connection.id, connection.negotiated().map(|n| n.keepalive));
    if let Some(interval) = interval {
        send(session, id, &Message::Keepalive);
        schedule_keepalive(session, now, slot, interval);
    }
}

/// HoldTimer_Expires.
fn hold_expired(session: &mut Session, now: Instant, slot: Slot) {
    let Some(connection) = session.connection(slot) else { return };
    // Only an established session is ever paused for long; before, the timer is all that ends a silent connection.
    if connection.read_paused && connection.is_established() {
        return restart_hold(session, now, slot);
    }
    fail(session, now, slot, Notification::new(error::HOLD_TIMER, 0), String::new());
}

fn wrote(session: &mut Session, now: Instant, slot: Slot, progress: bool, pending: bool) {
    let timer = Timer::SendHold(slot);
    let Some(connection) = session.connection(slot) else { return };
    let hold = connection.negotiated().map_or(session.config.timers.open_hold, |n| n.hold_time);
    // RFC 9687 section 6: the greater of 8 minutes and twice the hold time.
    let default = Duration::from_secs(480).max(hold * 2);
    let send_hold = session.config.timers.send_hold.unwrap_or(default);
    if !pending || send_hold.is_zero() {
        session.timers.stop(timer);
    } else if progress || session.timers.deadline(timer).is_none() {
        session.timers.set(timer, now + send_hold);
    }
}

fn read_paused(session: &mut Session, now: Instant, slot: Slot, paused: bool) {
    let Some(connection) = session.connection_mut(slot) else { return };
    let was = std::mem::replace(&mut connection.read_paused, paused);
    // What waited unread is about to be read: only from now on does silence count again.
    if was && !paused && connection.is_established() {
        restart_hold(session, now, slot);
    }
}

/// TcpConnectionFails.
fn closed(session: &mut Session, now: Instant, slot: Slot, why: Option<String>) {
    let failure = why.map_or(Failure::Closed, Failure::Lost);
    // From OpenSent to Active, from later states to Idle (section 8.2.2).
    let heard = session.connection(slot).is_some_and(|c| c.negotiated().is_some());
    end(session, now, slot, failure, if heard { Next::Damp } else { Next::Retry }, true);
}

/// NotifMsg, NotifMsgVerErr.
fn notified(session: &mut Session, now: Instant, slot: Slot, notification: Notification) {
    let next = match (notification.code, notification.subcode) {
        (error::OPEN, 4) if !session.bare => {
            // RFC 5492 section 3: once more, without optional parameters.
            session.bare = true;
            Next::Retry
        }
        // The peer keeps another connection, of which we shall hear.
        (error::CEASE, cease::COLLISION) => Next::Retry,
        _ => Next::Damp,
    };
    if next == Next::Damp {
        session.bare = false;
    }
    end(session, now, slot, Failure::Received(notification), next, true);
}

/// Ends a connection with a NOTIFICATION for an error of the peer's.
fn fail(session: &mut Session, now: Instant, slot: Slot, notification: Notification, detail: String) {
    refuse(session, now, slot, Failure::Sent { notification, detail });
}

fn refuse(session: &mut Session, now: Instant, slot: Slot, failure: Failure) {
    if let Failure::Sent { notification, .. } = &failure {
        notify(session, slot, notification);
    }
    session.bare = false;
    end(session, now, slot, failure, Next::Damp, false);
}

/// Queues a NOTIFICATION where one may be sent: any connection that is up.
fn notify(session: &mut Session, slot: Slot, notification: &Notification) {
    let up = session.connection(slot).filter(|c| !matches!(c.stage, Stage::Dialing)).map(|c| c.id);
    if let Some(id) = up {
        send(session, id, &Message::Notification(notification.clone()));
    }
}

/// CollisionDump: not a failure of anybody.
fn close_collided(session: &mut Session, slot: Slot) {
    if session.connection(slot).is_some_and(super::connection::Connection::is_open_sent) {
        notify(session, slot, &Notification::new(error::CEASE, cease::COLLISION));
    }
    drop_connection(session, slot, false);
}

fn drop_connection(session: &mut Session, slot: Slot, abort: bool) {
    if let Some(connection) = session.connections[slot as usize].take() {
        session.timers.stop_slot(slot);
        session.events.push_back(Event::Close { conn: connection.id, abort });
    }
}

/// Ends a connection, tells of it, and goes where `next` says if it was the last one.
fn end(session: &mut Session, now: Instant, slot: Slot, failure: Failure, next: Next, abort: bool) {
    let Some(connection) = session.connections[slot as usize].take() else { return };
    session.timers.stop_slot(slot);
    session.events.push_back(Event::Close { conn: connection.id, abort });
    let mut next = next;
    if let Stage::Established { negotiated, since } = &connection.stage {
        let retain = retains(negotiated, &failure);
        // A session that stayed up ends the damping.
        let stable = now.saturating_duration_since(*since) >= session.config.timers.idle_hold_max;
        if stable {
            session.failures = 0;
        }
        if next == Next::Damp && session.failures == 0 {
            session.failures = 1;
            next = Next::Retry;
        }
        session.events.push_back(Event::Down { reason: failure, retain });
    } else if session.connections.iter().flatten().all(|c| c.negotiated().is_none()) {
        // The end of one that is no longer needed is no failure.
        session.events.push_back(Event::Failed(failure));
    }
    if session.phase != Phase::Running {
        return;
    }
    match next {
        Next::Stay => idle(session, None, now),
        Next::After(wait) => idle(session, Some(wait), now),
        Next::Retry | Next::Damp if session.connections.iter().any(Option::is_some) => {}
        Next::Retry => {
            if !wait_for_bfd(session) && !session.config.passive {
                restart_connect_retry(session, now);
            }
        }
        Next::Damp => {
            session.failures = session.failures.saturating_add(1);
            let wait = session.idle_hold();
            let wait = session.jitter.apply(wait).max(Duration::from_millis(1));
            idle(session, Some(wait), now);
        }
    }
}

/// With strict BFD that is not up, attempts to connect end, and no other begins until it is. A session that is up stays.
fn wait_for_bfd(session: &mut Session) -> bool {
    let wait = session.config.bfd_strict && !session.bfd_up && session.phase == Phase::Running;
    if !wait || session.established().is_some() {
        return false;
    }
    for slot in Slot::BOTH {
        drop_connection(session, slot, true);
    }
    session.timers.stop(Timer::ConnectRetry);
    session.phase = Phase::Waiting;
    true
}

fn idle(session: &mut Session, wait: Option<Duration>, now: Instant) {
    session.timers.stop(Timer::ConnectRetry);
    if let Some(wait) = wait {
        session.phase = Phase::Waiting;
        session.timers.set(Timer::IdleHold, now + wait);
    } else {
        session.phase = Phase::Stopped;
        session.timers.stop(Timer::IdleHold);
    }
}

/// Whether the peer's routes stay after an established session ended so (RFC 4724 section 4.2, RFC 8538 section 4).
fn retains(negotiated: &Negotiated, failure: &Failure) -> bool {
    let Some(restart) = &negotiated.graceful_restart else { return false };
    match failure {
        Failure::Dial(_)
        | Failure::Closed
        | Failure::Lost(_)
        | Failure::Replaced
        | Failure::PlannedRestart => true,
        // It counts as a NOTIFICATION that could not be sent.
        Failure::SendHold => restart.notification,
        Failure::LinkDown => false,
        Failure::Received(notification) | Failure::Sent { notification, .. } => {
            restart.notification && !notification.is_hard_reset()
        }
    }
}

/// ManualStop, AutomaticStop.
fn stop(session: &mut Session, now: Instant, stop: Stop) {
    let (notification, next) = match &stop {
        Stop::Shutdown(text) => (Some(Notification::shutdown(cease::SHUTDOWN, text)), Next::Stay),
        Stop::Reset(text) => (Some(Notification::shutdown(cease::RESET, text)), Next::After(Duration::ZERO)),
        Stop::Deconfigured => (Some(Notification::new(error::CEASE, cease::DECONFIGURED)), Next::Stay),
        Stop::ConfigChange => {
            (Some(Notification::new(error::CEASE, cease::CONFIG_CHANGE)), Next::After(Duration::ZERO))
        }
        Stop::MaxPrefixes { family, limit, restart } => {
            // RFC 4486 section 4: the data tells AFI, SAFI and the limit.
            let (afi, safi) = negotiate::family_to_wire(*family);
            let mut data = BytesMut::new();
            data.extend_from_slice(&afi.to_be_bytes());
            data.extend_from_slice(&[safi]);
            data.extend_from_slice(&limit.to_be_bytes());
            let notification =
                Notification { code: error::CEASE, subcode: cease::MAX_PREFIXES, data: data.freeze() };
            (Some(notification), restart.map_or(Next::Stay, Next::After))
        }
        Stop::BfdDown { .. } => (
            Some(Notification::new(error::CEASE, cease::BFD_DOWN)),
            Next::After(session.config.timers.idle_hold),
        ),
        Stop::LinkDown => (None, Next::After(session.config.timers.idle_hold)),
        Stop::OutOfResources => (
            Some(Notification::new(error::CEASE, cease::OUT_OF_RESOURCES)),
            Next::After(session.config.timers.idle_hold_max),
        ),
        Stop::PlannedRestart => (None, Next::Stay),
    };
    if let Stop::BfdDown { forwarding_lost } = stop {
        session.bfd_up = false;
        if session.established().is_none() {
            if forwarding_lost {
                session.events.push_back(Event::ForwardingLost);
            }
            // An attempt to connect finds out by itself.
            if !session.config.bfd_strict {
                return;
            }
        }
    }
    if matches!(stop, Stop::LinkDown) && session.established().is_none() {
        // What is kept for a restart is of no use; an attempt to connect finds out by itself.
        session.events.push_back(Event::ForwardingLost);
        return;
    }
    let was_stopped = session.phase == Phase::Stopped;
    for slot in Slot::BOTH {
        stop_connection(session, now, slot, &stop, notification.clone());
    }
    // RFC 4271 section 8.2.2: a manual stop sets ConnectRetryCounter to zero.
    if matches!(next, Next::Stay) || matches!(stop, Stop::Reset(_) | Stop::ConfigChange) {
        session.failures = 0;
        session.bare = false;
    }
    match next {
        Next::After(wait) if !was_stopped => {
            idle(session, Some(wait), now);
            // With nothing to wait for, the neighbour's next connection need not be refused.
            if wait.is_zero() {
                run(session, now);
            }
        }
        _ => idle(session, None, now),
    }
}

fn stop_connection(
    session: &mut Session,
    now: Instant,
    slot: Slot,
    stop: &Stop,
    notification: Option<Notification>,
) {
    let Some(connection) = session.connection(slot) else { return };
    if !connection.is_open_sent() {
        return drop_connection(session, slot, true);
    }
    if matches!(stop, Stop::LinkDown) {
        return end(session, now, slot, Failure::LinkDown, Next::Stay, true);
    }
    let restart = connection.negotiated().and_then(|n| n.graceful_restart.as_ref());
    // RFC 5882 section 4.3: with the C bit BFD does not fail for a restart.
    let bfd_graceful =
        matches!(stop, Stop::BfdDown { forwarding_lost: false }) && session.config.bfd_graceful;
    if bfd_graceful && restart.is_some_and(|r| !r.notification) {
        // A NOTIFICATION would end the neighbour's forwarding for us (RFC 4724 section 4).
        let failure = Failure::Lost(Failure::BFD_DOWN.to_owned());
        return end(session, now, slot, failure, Next::Stay, true);
    }
    let hard = restart.is_some_and(|r| r.notification)
        && match stop {
            // RFC 8538 section 5: operators mean these to take the routes away.
            Stop::Shutdown(_) | Stop::Deconfigured | Stop::MaxPrefixes { .. } => true,
            // Nothing should be sent to where it does not arrive, for as long as a restart may take.
            Stop::BfdDown { .. } => !bfd_graceful,
            Stop::Reset(_)
            | Stop::ConfigChange
            | Stop::OutOfResources
            | Stop::LinkDown
            | Stop::PlannedRestart => false,
        };
    let notification = match notification {
        Some(notification) if hard => notification.into_hard_reset(),
        Some(notification) => notification,
        None if restart.is_some() => {
            return end(session, now, slot, Failure::PlannedRestart, Next::Stay, false);
        }
        None => Notification::shutdown(cease::RESET, "restart"),
    };
    notify(session, slot, &notification);
    end(session, now, slot, Failure::Sent { notification, detail: String::new() }, Next::Stay, false);
}
