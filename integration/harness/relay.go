package harness

import (
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"
)

const (
	// relayChunk and relayQueue bound what one direction of a connection holds while it is on its way: 16 MB.
	relayChunk = 32 << 10
	relayQueue = 512
	// maxFlights bounds what is recorded, so that a gigabyte can go through. Counting goes on.
	maxFlights = 10_000
)

// Relay makes the way to a server longer and counts the round trips that its clients wait for. It adds delay
// in user space, so that no right of the machine's is needed, and delays a connection's start as TCP would.
//
// The count does not depend on speed: what a client sends is one round trip further than the furthest thing
// that had reached it when it sent, whatever the connection; what a server sends is as far as the furthest
// thing that had reached it. A sender that is slow by more than a round trip may be counted too high, never
// too low, so choose a delay well above the machine's hiccups.
type Relay struct {
	Addr   string // where clients connect, on 127.0.0.1
	target string
	half   time.Duration // one way

	listener net.Listener
	tasks    sync.WaitGroup

	mu      sync.Mutex // guards what follows
	known   int        // round trips that clients have seen the end of
	resets  int
	conns   int
	open    map[net.Conn]struct{}
	flights []Flight
	began   time.Time
	closed  bool
}

// Flight is what went one way together.
type Flight struct {
	At         time.Duration // when the first of it arrived, since StartRelay or Reset
	Conn       int           // counted from 1
	FromClient bool
	Bytes      int
	Trips      int // round trips gone by when it arrived, the one it is part of included for what a server sent
}

// StartRelay relays connections to target until the test ends, each byte taking half of roundTrip.
func StartRelay(t testing.TB, target string, roundTrip time.Duration) *Relay {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	r := &Relay{
		Addr:     l.Addr().String(),
		target:   target,
		half:     roundTrip / 2,
		listener: l,
		open:     map[net.Conn]struct{}{},
		began:    time.Now(),
	}
	r.tasks.Go(r.accept)
	t.Cleanup(r.close)
	return r
}

// Reset forgets what was counted and recorded. Connections that are open go on and count no more.
func (r *Relay) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resets++
	r.known, r.conns, r.flights, r.began = 0, 0, nil, time.Now()
}

// Trips is how many round trips clients have waited for so far, TCP's own included.
func (r *Relay) Trips() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known
}

// Flights is what went through so far, in the order of its arrival.
func (r *Relay) Flights() []Flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Flight(nil), r.flights...)
}

// Log shows the flights, one a line.
func (r *Relay) Log() string {
	var b strings.Builder
	for _, f := range r.Flights() {
		way := "server → client"
		if f.FromClient {
			way = "client → server"
		}
		fmt.Fprintf(
			&b,
			"%6d ms  connection %d  %s  %6d bytes  trips %d\n",
			f.At.Milliseconds(),
			f.Conn,
			way,
			f.Bytes,
			f.Trips,
		)
	}
	return b.String()
}

func (r *Relay) close() {
	r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for c := range r.open {
		c.Close()
	}
	r.mu.Unlock()
	r.tasks.Wait()
}

// track closes the connection when the relay ends, and reports whether it still runs.
func (r *Relay) track(c net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[c] = struct{}{}
	return !r.closed
}

func (r *Relay) drop(c net.Conn) {
	c.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, c)
}

func (r *Relay) accept() {
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		r.conns++
		p := &relayedConn{relay: r, id: r.conns, since: r.resets}
		sent := r.known
		r.mu.Unlock()
		r.tasks.Go(func() { p.run(c, sent) })
	}
}

// relayedConn is one connection.
type relayedConn struct {
	relay *Relay
	id    int
	since int // the reset that it came after
	known int // round trips that the server knows of; guarded by relay.mu
}

// run relays one connection; sent is what the client knew when it asked for it.
func (p *relayedConn) run(client net.Conn, sent int) {
	r := p.relay
	defer r.drop(client)
	if !r.track(client) {
		return
	}
	wait(2 * r.half) // SYN there, SYN-ACK back
	r.mu.Lock()
	if p.since == r.resets {
		r.known = max(r.known, sent+1)
	}
	p.known = sent + 2 // by the ACK: a server's greeting is one round trip more
	r.mu.Unlock()
	toServer, toClient := make(chan chunk, relayQueue), make(chan chunk, relayQueue)
	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() { p.read(client, toServer, true) })
	wait(r.half) // the ACK, upon which a server's Accept returns
	server, err := net.Dial("tcp", r.target)
	if err != nil {
		client.Close()
		discard(toServer)
		return
	}
	defer r.drop(server)
	if !r.track(server) {
		client.Close()
		discard(toServer)
		return
	}
	both.Go(func() { p.read(server, toClient, false) })
	both.Go(func() { p.write(server, client, toServer, true) })
	p.write(client, server, toClient, false)
	both.Wait()
}

// chunk is bytes on their way. No data is the end of the stream.
type chunk struct {
	data  *[]byte
	due   time.Time
	trips int
}

var chunks = sync.Pool{New: func() any { b := make([]byte, relayChunk); return &b }}

// read takes in what a side sends, until it ends.
func (p *relayedConn) read(from net.Conn, way chan<- chunk, fromClient bool) {
	defer close(way)
	for {
		b := chunks.Get().(*[]byte)
		n, err := from.Read(*b)
		now := chunk{due: time.Now().Add(p.relay.half), trips: p.stamp(fromClient)}
		if n > 0 {
			*b = (*b)[:n]
			now.data = b
			way <- now
		}
		if err == io.EOF {
			way <- chunk{due: now.due}
		}
		if err != nil {
			return
		}
	}
}

// write hands on what comes, each at its time. When its receiver is gone it makes the sender end.
func (p *relayedConn) write(to, from net.Conn, way <-chan chunk, fromClient bool) {
	defer discard(way)
	for c := range way {
		wait(time.Until(c.due))
		if c.data == nil {
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
		p.arrived(c, fromClient)
		_, err := to.Write(*c.data)
		*c.data = (*c.data)[:relayChunk]
		chunks.Put(c.data)
		if err != nil {
			break
		}
	}
	to.Close()
	from.Close()
}

func discard(way <-chan chunk) {
	for range way {
	}
}

// stamp says how far things are for what a side sends now.
func (p *relayedConn) stamp(fromClient bool) int {
	p.relay.mu.Lock()
	defer p.relay.mu.Unlock()
	if fromClient {
		return p.relay.known + 1
	}
	return p.known
}

// arrived is called before the receiver can know of the chunk, and so before it can answer.
func (p *relayedConn) arrived(c chunk, fromClient bool) {
	r := p.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.since != r.resets {
		return
	}
	f := Flight{
		At:         time.Since(r.began),
		Conn:       p.id,
		FromClient: fromClient,
		Bytes:      len(*c.data),
		Trips:      c.trips,
	}
	if fromClient {
		p.known = max(p.known, c.trips)
		f.Trips-- // it is on the first half of that one
	} else {
		r.known = max(r.known, c.trips)
	}
	if n := len(r.flights); n > 0 {
		if last := &r.flights[n-1]; last.Conn == f.Conn && last.FromClient == f.FromClient &&
			last.Trips == f.Trips {
			last.Bytes += f.Bytes
			return
		}
	}
	if len(r.flights) < maxFlights {
		r.flights = append(r.flights, f)
	}
}

func wait(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}
