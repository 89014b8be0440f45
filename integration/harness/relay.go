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
// The count follows what depends on what, not the clock. Every chunk of data has a number: how many round
// trips have ended when a client has received it or, if a client sent it, the answer to it. A client may send
// a chunk because of anything that it has received, on any connection, so the chunk's number is one more than
// the highest number that has reached a client. A server answers what it has received on the same connection,
// so its chunk has the highest number that has reached the server on that connection. The count is the
// highest number that has reached a client.
//
// If a client or server pauses, a chunk that does not depend on another one may be sent after that one has
// arrived, and the count is too high; it is never too low. So choose a delay much longer than the pauses of
// the machine.
type Relay struct {
	Addr   string // where clients connect, on 127.0.0.1
	target string
	half   time.Duration // delay in one direction

	listener net.Listener
	tasks    sync.WaitGroup

	mu            sync.Mutex            // guards the next fields, and relayedConn.reachedServer
	reachedClient int                   // the highest number that has reached a client: the count
	resets        int                   // calls of Reset
	conns         int                   // connections since the last Reset
	open          map[net.Conn]struct{} // what close has to close
	flights       []Flight
	start         time.Time // of the recording: StartRelay or the last Reset
	closed        bool
}

// Flight is what one side of a connection sent without waiting for the other side.
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
	r.reachedClient, r.conns, r.flights, r.start = 0, 0, nil, time.Now()
}

// Trips is the number of round trips for which clients have waited so far, including TCP's handshake.
func (r *Relay) Trips() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.reachedClient
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
	for _, flight := range r.Flights() {
		arrow := "server → client"
		if flight.FromClient {
			arrow = "client → server"
		}
		const format = "%6d ms  connection %d  %s  %6d bytes  trips %d\n"
		fmt.Fprintf(&b, format, flight.At.Milliseconds(), flight.Conn, arrow, flight.Bytes, flight.Trips)
	}
	return b.String()
}

// close closes all connections and waits for the relay's goroutines.
func (r *Relay) close() {
	r.listener.Close()
	r.mu.Lock()
	r.closed = true
	for conn := range r.open {
		conn.Close()
	}
	r.mu.Unlock()
	r.tasks.Wait()
}

// track adds a connection to those that close closes. It returns false when the relay is closed already; then
// the caller closes the connection.
func (r *Relay) track(conn net.Conn) bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open[conn] = struct{}{}
	return !r.closed
}

// drop closes a connection and removes it from those that close closes.
func (r *Relay) drop(conn net.Conn) {
	conn.Close()
	r.mu.Lock()
	defer r.mu.Unlock()
	delete(r.open, conn)
}

// accept relays connections until the listener is closed.
func (r *Relay) accept() {
	for {
		client, err := r.listener.Accept()
		if err != nil {
			return
		}
		r.mu.Lock()
		r.conns++
		conn := &relayedConn{relay: r, id: r.conns, reset: r.resets}
		known := r.reachedClient
		r.mu.Unlock()
		r.tasks.Go(func() { conn.run(client, known) })
	}
}

// relayedConn is one connection of a client, and the connection to the server behind it.
type relayedConn struct {
	relay         *Relay
	id            int // Flight.Conn
	reset         int // relay.resets at its start; it is not counted after a later reset
	reachedServer int // the highest number that has reached the server; relay.mu guards it
}

// run relays one connection until it ends. known is relay.reachedClient at the time when the client
// connected. The client's system has finished the TCP handshake with the relay at once; run delays everything
// by the time that a handshake with the server would have taken.
func (c *relayedConn) run(client net.Conn, known int) {
	r := c.relay
	defer r.drop(client)
	if !r.track(client) {
		return
	}
	wait(2 * r.half) // for SYN and SYN-ACK
	r.mu.Lock()
	if c.reset == r.resets {
		r.reachedClient = max(r.reachedClient, known+1) // the handshake was the first round trip
	}
	c.reachedServer = known + 2 // with the client's ACK: a greeting of the server ends one round trip more
	r.mu.Unlock()
	toServer, toClient := make(chan chunk, relayQueue), make(chan chunk, relayQueue)
	var tasks sync.WaitGroup
	defer tasks.Wait()
	tasks.Go(func() { c.read(client, toServer, fromClient) })
	wait(r.half) // for the client's ACK, after which the server's Accept returns
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
	tasks.Go(func() { c.read(server, toClient, fromServer) })
	tasks.Go(func() { c.write(server, client, toServer, fromClient) })
	c.write(client, server, toClient, fromServer)
	tasks.Wait()
}

// direction says which side of a connection sends.
type direction bool

const (
	fromClient direction = true
	fromServer direction = false
)

// chunk is a piece of data on its way.
type chunk struct {
	data  *[]byte   // nil marks the end of the stream
	due   time.Time // when it arrives
	trips int       // its number of round trips: see Relay
}

// chunks has buffers of relayChunk bytes to use again.
var chunks = sync.Pool{New: func() any { b := make([]byte, relayChunk); return &b }}

// read puts what the side from sends into the queue, with the time at which it arrives at the other side,
// until from has ended its output or is closed. Then it closes the queue.
func (c *relayedConn) read(from net.Conn, queue chan<- chunk, sender direction) {
	defer close(queue)
	for {
		b := chunks.Get().(*[]byte)
		n, err := from.Read(*b)
		sent := chunk{due: time.Now().Add(c.relay.half), trips: c.stamp(sender)}
		if n > 0 {
			*b = (*b)[:n]
			sent.data = b
			queue <- sent
		}
		if err == io.EOF {
			queue <- chunk{due: sent.due}
		}
		if err != nil {
			return
		}
	}
}

// write writes the chunks of the queue, which sender sent, to the side to, each when it is due. At the end of
// the stream it half-closes to. If writing fails or the stream was cut off, it closes both sides.
func (c *relayedConn) write(to, from net.Conn, queue <-chan chunk, sender direction) {
	defer discard(queue)
	for arriving := range queue {
		wait(time.Until(arriving.due))
		if arriving.data == nil {
			_ = to.(*net.TCPConn).CloseWrite()
			return
		}
		c.arrived(arriving, sender)
		_, err := to.Write(*arriving.data)
		*arriving.data = (*arriving.data)[:relayChunk]
		chunks.Put(arriving.data)
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

// stamp returns the number of round trips of a chunk that the sender sends now: see Relay.
func (c *relayedConn) stamp(sender direction) int {
	c.relay.mu.Lock()
	defer c.relay.mu.Unlock()
	if sender == fromClient {
		return c.relay.reachedClient + 1
	}
	return c.reachedServer
}

// arrived counts a chunk and records it, as a new flight or as a part of the last one. write calls it just
// before it writes the chunk, so that the chunk is counted before the receiver can answer it. A chunk of a
// connection that is older than the last Reset is not counted.
func (c *relayedConn) arrived(arriving chunk, sender direction) {
	r := c.relay
	r.mu.Lock()
	defer r.mu.Unlock()
	if c.reset != r.resets {
		return
	}
	flight := Flight{
		At:         time.Since(r.start),
		Conn:       c.id,
		FromClient: sender == fromClient,
		Bytes:      len(*arriving.data),
		Trips:      arriving.trips,
	}
	if sender == fromClient {
		c.reachedServer = max(c.reachedServer, arriving.trips)
		flight.Trips-- // its round trip has not ended yet
	} else {
		r.reachedClient = max(r.reachedClient, arriving.trips)
	}
	if n := len(r.flights); n > 0 {
		last := &r.flights[n-1]
		isSameFlight := last.Conn == flight.Conn &&
			last.FromClient == flight.FromClient &&
			last.Trips == flight.Trips
		if isSameFlight {
			last.Bytes += flight.Bytes
			return
		}
	}
	if len(r.flights) < maxFlights {
		r.flights = append(r.flights, flight)
	}
}

// wait waits in real time: programs in other processes are at the ends of the relay.
func wait(d time.Duration) {
	if d > 0 {
		<-time.After(d)
	}
}
