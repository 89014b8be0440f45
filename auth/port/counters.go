package port

import "sync/atomic"

// counters count connections; most are counted before it is known who the client is.
type counters struct {
	accepted, full, refused, anonymous, evicted atomic.Uint64
}

// Counts are numbers of connections. All but Open count from the start of the process.
type Counts struct {
	Accepted  uint64 // accepted from the socket
	Full      uint64 // closed at once, because maxConns were open
	Refused   uint64 // failed the handshake
	Anonymous uint64 // passed the handshake without a client certificate
	Evicted   uint64 // closed to make room for newer ones, in the handshake or anonymous
	Open      int    // open now
}

// Counts returns the counters as they are now.
func (p *Port) Counts() Counts {
	return Counts{
		Accepted:  p.counts.accepted.Load(),
		Full:      p.counts.full.Load(),
		Refused:   p.counts.refused.Load(),
		Anonymous: p.counts.anonymous.Load(),
		Evicted:   p.counts.evicted.Load(),
		Open:      len(p.conns),
	}
}
