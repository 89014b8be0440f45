package port

import "sync/atomic"

// counters count what comes to the door, most of it before anyone is known.
type counters struct {
	accepted, full, refused, anonymous, evicted atomic.Uint64
}

// Counts are how many connections, since the start, …
type Counts struct {
	Accepted  uint64 // were taken from the socket
	Full      uint64 // were closed at once, because too many were open
	Refused   uint64 // did not pass the handshake
	Anonymous uint64 // passed it without a certificate
	Evicted   uint64 // of strangers were closed because others came
	Open      int    // are open now
}

// Counts tells how the door is used.
func (p *Port) Counts() Counts {
	return Counts{
		Accepted: p.counts.accepted.Load(), Full: p.counts.full.Load(), Refused: p.counts.refused.Load(),
		Anonymous: p.counts.anonymous.Load(), Evicted: p.counts.evicted.Load(), Open: len(p.conns),
	}
}
