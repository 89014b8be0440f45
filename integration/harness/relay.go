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
	// relayChunk (bytes) and relayQueue (chunks) bound the bytes on their way in one direction: 16 MB.
	relayChunk = 32 << 10
	relayQueue = 512
	// maxFlights bounds the recorded flights. Further ones are relayed and counted, but not recorded.
	maxFlights = 10_000
)

// Relay relays connections to a server with a delay, and counts the round trips for which the clients wait.
// It works in user space, so it needs no privileges. It delays the start of a connection as TCP would.
//
// The count does not depend on speed. Every chunk of data has a number of round trips. A client's chunk has
// one more than the highest that had reached any client before it was sent, on whatever connection. A
// server's chunk has the highest that had reached the server on this connection. When a sender pauses for
// more than a round trip, the count may be too high, but never too low. So choose a delay much longer than
// the pauses of the machine.
type Relay struct {
	Addr   string // where clients connect, on 127.0.0.1
	target string
	half   time.Duration // delay in one direction

	listener net.Listener
	tasks    sync.WaitGroup

	mu      sync.Mutex // guards what follows, and relayedConn.known
	known   int        // the highest number of round trips that has reached a client
	resets  int        // calls of Reset
	conns   int        // connections since the last Reset
	open    map[net.Conn]struct{}
	flights []Flight
	start   time.Time // StartRelay or the last Reset
	closed  bool
}

// Flight is what one side sent without waiting for the other.
type Flight struct {
	At         time.Duration // arrival of its first byte, since StartRelay or Reset
	Conn       int           // number of the connection, from 1
	FromClient bool
	Bytes      int
	Trips      int // round trips that had ended when it arrived; a server's flight ends one
}

// StartRelay relays connections to target until the test ends. Each byte is delayed by half of roundTrip.
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
		start:    time.Now(),
	}
	r.tasks.Go(r.accept)
	t.Cleanup(r.close)
	return r
}

// Reset starts counting and recording from zero. Connections that are open are still relayed, but not
// counted.
func (r *Relay) Reset() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.resets++
	r.known, r.conns, r.flights, r.start = 0, 0, nil, time.Now()
}

// Trips is the number of round trips for which clients have waited so far, including TCP's handshake.
func (r *Relay) Trips() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.known
}

// Flights are the recorded flights, in the order of arrival.
func (r *Relay) Flights() []Flight {
	r.mu.Lock()
	defer r.mu.Unlock()
	return append([]Flight(nil), r.flights...)
}

// Log prints the flights, one on each line.
func (r *Relay) Log() string {
	var b strings.Builder
	for _, f := range r.Flights() {
		direction := "server → client"
		if f.FromClient {
			direction = "client → server"
		}
		const format = "%6d ms  connection %d  %s  %6d bytes  trips %d\n"
		fmt.Fprintf(&b, format, f.At.Milliseconds(), f.Conn, direction, f.Bytes, f.Trips)
	}
	return b.String()
}

// close closes all connections and waits for the relay's goroutines.
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

// track adds a connection to those that close closes. It returns false when the relay is closed already.
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

// accept relays connections until the listener is closed.
func (r *Relay) accept() {
	for {
		c, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		r.conns++
		p := &relayedConn{relay: r, id: r.conns, reset: r.resets}
		known := r.known
		r.mu.Unlock()
		r.tasks.Go(func() { p.run(c, known) })
	}
}

// relayedConn is one connection.
type relayedConn struct {
	relay *Relay
	id    int
	reset int // relay.resets at its start; it is not counted after a later reset
	known int // the highest number of round trips that has reached the server; guarded by relay.mu
}

// run relays one connection until it ends. known is relay.known when the client connected.
func (p *relayedConn) run(client net.Conn, known int) {
	r := p.relay
	defer r.drop(client)
	if !r.track(client) {
		return
	}
	wait(2 * r.half) // for SYN and SYN-ACK
	r.mu.Lock()
	if p.reset == r.resets {
		r.known = max(r.known, known+1)
	}
	p.known = known + 2 // with the client's ACK: a greeting of the server ends one round trip more
	r.mu.Unlock()
	toServer, toClient := make(chan chunk, relayQueue), make(chan chunk, relayQueue)
	var both sync.WaitGroup
	defer both.Wait()
	both.Go(func() { p.read(client, toServer, true) })
	wait(r.half) // for the ACK, with which the server's Accept returns
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

// chunk is a piece of data on its way.
type chunk struct {
	data  *[]byte   // nil marks the end of the stream
	due   time.Time // when it arrives
	trips int       // see Relay
}

// chunks has buffers of relayChunk bytes to use again.
var chunks = sync.Pool{New: func() any { b := make([]byte, relayChunk); return &b }}

// read puts what one side sends into the queue, until that side ends.
func (p *relayedConn) read(from net.Conn, queue chan<- chunk, fromClient bool) {
	defer close(queue)
	for {
		b := chunks.Get().(*[]byte)
		n, err := from.Read(*b)
		c := chunk{due: time.Now().Add(p.relay.half), trips: p.stamp(fromClient)}
		if n > 0 {
			*b = (*b)[:n]
			c.data = b
			queue <- c
		}
		if err == io.EOF {
			queue <- chunk{due: c.due}
		}
		if err != nil {
			return
		}
	}
}

// write writes the chunks of the queue, each when it is due. When writing fails, it closes both sides.
func (p *relayedConn) write(to, from net.Conn, queue <-chan chunk, fromClient bool) {
	defer discard(queue)
	for c := range queue {
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

// discard receives until the queue is closed, so that read does not block.
func discard(queue <-chan chunk) {
	for range queue {
	}
}

// stamp is the number of round trips of a chunk that a side sends now.
func (p *relayedConn) stamp(fromClient bool) int {
	p.relay.mu.Lock()
	defer p.relay.mu.Unlock()
	if fromClient {
		return p.relay.known + 1
	}
	return p.known
}

// arrived counts and records a chunk. It is called just before the chunk is written, so before the receiver
// can answer it.
func (p *relayedConn) arrived(c chunk, fromClient bool) {
	r := p.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	if p.reset != r.resets {
		return
	}
	f := Flight{
		At:         time.Since(r.start),
		Conn:       p.id,
		FromClient: fromClient,
		Bytes:      len(*c.data),
		Trips:      c.trips,
	}
	if fromClient {
		p.known = max(p.known, c.trips)
		f.Trips-- // its round trip has not ended yet
	} else {
		r.known = max(r.known, c.trips)
	}
	if n := len(r.flights); n > 0 {
		last := &r.flights[n-1]
		if last.Conn == f.Conn && last.FromClient == f.FromClient && last.Trips == f.Trips {
			last.Bytes += f.Bytes
			return
		}
	}
	if len(r.flights) < maxFlights {
		r.flights = append(r.flights, f)
	}
}

// wait waits in real time: programs in other processes are at the ends of the relay.
func wait(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}
