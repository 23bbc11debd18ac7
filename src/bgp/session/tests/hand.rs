//! One session against messages made by hand.

use std::{
    net::Ipv4Addr,
    time::{Duration, Instant},
};

use bytes::{Bytes, BytesMut};

use super::pair::config;
use crate::bgp::{
    config::RemoteAs,
    session::{ConnId, Event, Failure, Input, Session, SessionConfig, State},
    wire::{
        self, Capability, DecodeContext, EncodeContext, FrameReader, Message, Notification, Open, Update,
    },
};

pub(super) struct Hand {
    pub(super) now: Instant,
    pub(super) session: Session,
    /// What the session sent and has not been looked at.
    pub(super) sent: Vec<(ConnId, Message)>,
    pub(super) events: Vec<Event>,
}

pub(super) fn bytes_of(message: &Message) -> Bytes {
    let mut bytes = BytesMut::new();
    wire::encode(&EncodeContext::default(), message, &mut bytes).unwrap();
    bytes.freeze()
}

/// A sound OPEN of AS 65000, identifier 10.0.0.9.
pub(super) fn open() -> Open {
    Open {
        version: 4,
        my_as: 65000,
        hold_time: 90,
        router_id: Ipv4Addr::new(10, 0, 0, 9),
        capabilities: vec![
            Capability::Multiprotocol { afi: 1, safi: 1 },
            Capability::FourOctetAs(65000),
            Capability::RouteRefresh,
        ],
    }
}

/// The peer offers graceful restart for IPv4.
pub(super) fn graceful(notification: bool, forwarding: bool) -> Capability {
    Capability::GracefulRestart {
        restart_state: false,
        notification,
        restart_time: 60,
        families: vec![(1, 1, forwarding)],
    }
}

impl Hand {
    /// Us: AS 64512, identifier 0.0.1.0, passive.
    pub(super) fn new(edit: impl FnOnce(&mut SessionConfig)) -> Self {
        let mut config = config(64512, 0x100, RemoteAs::External);
        config.passive = true;
        edit(&mut config);
        let mut hand = Self {
            now: Instant::now(),
            session: Session::new(config, false, 7),
            sent: Vec::new(),
            events: Vec::new(),
        };
        hand.input(Input::Start);
        hand
    }

    pub(super) fn collect(&mut self) {
        while let Some(transmit) = self.session.poll_transmit() {
            let mut reader = FrameReader::new();
            reader.push(&transmit.bytes);
            while let Some(frame) = reader.next_frame().unwrap() {
                let (message, errors) =
                    wire::decode(&DecodeContext::default(), &frame).into_result().unwrap();
                assert_eq!(errors, []);
                self.sent.push((transmit.conn, message));
            }
        }
        while let Some(event) = self.session.poll_event() {
            self.events.push(event);
        }
    }

    pub(super) fn input(&mut self, input: Input) {
        self.session.handle_input(self.now, input);
        self.collect();
    }

    pub(super) fn accept(&mut self) -> ConnId {
        let conn = self.session.accept(self.now).expect("the session accepts");
        self.collect();
        conn
    }

    pub(super) fn receive(&mut self, conn: ConnId, message: &Message) {
        self.input(Input::Bytes(conn, bytes_of(message)));
    }

    /// Lets time pass, with every timer on its time.
    pub(super) fn wait(&mut self, time: Duration) {
        let end = self.now + time;
        while let Some(at) = self.session.poll_timeout().filter(|at| *at <= end) {
            self.now = self.now.max(at);
            self.session.handle_timeout(self.now);
            self.collect();
        }
        self.now = end;
    }

    /// A connection in OpenSent.
    pub(super) fn open_sent(&mut self) -> ConnId {
        let conn = self.accept();
        assert_eq!(self.session.state(), State::OpenSent);
        conn
    }

    pub(super) fn open_confirm_with(&mut self, open: Open) -> ConnId {
        let conn = self.open_sent();
        self.receive(conn, &Message::Open(open));
        conn
    }

    pub(super) fn established_with(&mut self, open: Open) -> ConnId {
        let conn = self.open_confirm_with(open);
        assert_eq!(self.session.state(), State::OpenConfirm, "{:?}", self.events);
        self.receive(conn, &Message::Keepalive);
        assert_eq!(self.session.state(), State::Established);
        self.sent.clear();
        conn
    }

    /// The last NOTIFICATION sent.
    pub(super) fn notification(&self) -> Option<&Notification> {
        self.sent.iter().rev().find_map(|(_, message)| match message {
            Message::Notification(notification) => Some(notification),
            _ => None,
        })
    }

    pub(super) fn codes(&self) -> Option<(u8, u8)> {
        self.notification().map(|n| (n.code, n.subcode))
    }

    pub(super) fn down(&self) -> Option<(&Failure, bool)> {
        self.events.iter().rev().find_map(|event| match event {
            Event::Down { reason, retain } => Some((reason, *retain)),
            _ => None,
        })
    }

    pub(super) fn closed(&self, conn: ConnId) -> bool {
        self.events.iter().any(|event| matches!(event, Event::Close { conn: c, .. } if *c == conn))
    }
}

pub(super) fn end_of_rib() -> Message {
    Message::Update(Update::default())
}
