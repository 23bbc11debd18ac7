# MikroTik RouterOS 7.20 or later as the rack's switch: /import tor.rsc
#
# NOT RUN IN TESTS: written from MikroTik's documentation. Check it on your release. Before 7.20 there is no
# /routing/bgp/instance: put as=65000 and router-id=192.0.2.0 on each connection and say address-families= for afi=.
#
# Confirmed in MikroTik's manual (help.mikrotik.com, "BGP"): hold time and keepalive, limit-process-routes-* with its
#   inexact count and the flag limit-exceeded, that everything is accepted and sent without a filter, early cut and
#   no-early-cut, that a default route is sent only with output.default-originate, that rejected routes take memory,
#   use-bfd, and the names of all parameters here except those of 7.20.
# Not confirmed by a document we have seen: multipath, graceful restart, that all communities are passed on, and /31 in
#   the way used here.
#
# What RouterOS does unless told otherwise, and what follows for slash32:
#   communities    all kinds are passed on, unless a filter removes them. Nothing to switch on.
#   /32 and /128   accepted.
#   prefix limit   none. limit-process-routes-* here, which counts only roughly; a session that hit it stays down until
#                  `/routing/bgp/session/clear flag=limit-exceeded`. Rejected routes still take memory.
#   RFC 8212       not obeyed: without a filter everything is accepted and sent.
#   own AS check   "early cut": routes that the neighbour would drop for its own AS number are not sent. Nothing to do
#                  while each host has its own; for hosts that share one: output.no-early-cut=yes here and
#                  `allowas_in = 1` on the hosts.
#   graceful       the capability is announced (`gr` in /routing/bgp/session). Routes of a lost session are also kept
#                  while RouterOS caches the session.
#   ECMP           one path; multipath= on the instance. It compares attributes: two hosts with different AS numbers
#                  that announce one anycast address may still give one path only.
#   default route  never sent. Where there is one, say output.default-originate=if-installed on both connections.
#   timers         hold time 3 min, keepalive a third of it.

/system/identity/set name=tor1

# A /31 in RouterOS' own way: the address, and the neighbour's as its network.
/ip/address
add address=192.0.2.0/32 network=192.0.2.1 interface=ether1 comment=host1
add address=192.0.2.2/32 network=192.0.2.3 interface=ether2 comment=host2
/ipv6/address
add address=2001:db8:0:1::1/64 interface=ether1 advertise=no comment=host1
add address=2001:db8:0:2::1/64 interface=ether2 advertise=no comment=host2

# 300 ms x 3
/routing/bfd/configuration
add interfaces=ether1,ether2 min-rx=300ms min-tx=300ms multiplier=3

# From a host: addresses of containers and nothing else. To a host: those of the other hosts, and a default route if
# there is one. A chain that ends without a verdict rejects; it is said all the same.
/routing/filter/rule
add chain=hosts4-in rule="if (dst in 10.32.0.0/16 && dst-len <= 32) { accept } else { reject }"
add chain=hosts4-out rule="if (dst in 10.32.0.0/16 && dst-len <= 32) { accept }"
add chain=hosts4-out rule="if (dst == 0.0.0.0/0) { accept } else { reject }"
add chain=hosts6-in rule="if (dst in fd00:32::/48 && dst-len <= 128) { accept } else { reject }"
add chain=hosts6-out rule="if (dst in fd00:32::/48 && dst-len <= 128) { accept }"
add chain=hosts6-out rule="if (dst == ::/0) { accept } else { reject }"

/routing/bgp/instance
add name=tor as=65000 router-id=192.0.2.0 multipath=64

# The hosts call; a new host needs its AS number added. Without remote.allowed-as any AS number may call.
/routing/bgp/connection
add name=hosts4 instance=tor afi=ip local.role=ebgp connect=no listen=yes \
    remote.address=192.0.2.0/24 remote.allowed-as=65001,65002 \
    hold-time=9s keepalive-time=3s use-bfd=yes \
    input.filter=hosts4-in input.limit-process-routes-ipv4=1024 output.filter-chain=hosts4-out
add name=hosts6 instance=tor afi=ipv6 local.role=ebgp connect=no listen=yes \
    remote.address=2001:db8::/32 remote.allowed-as=65001,65002 \
    hold-time=9s keepalive-time=3s use-bfd=yes \
    input.filter=hosts6-in input.limit-process-routes-ipv6=1024 output.filter-chain=hosts6-out
