package tunnel

import (
	"context"
	"crypto"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/hashicorp/yamux"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

const (
	// headerTimeout bounds the wait for a session stream's header.
	headerTimeout = 10 * time.Second
	// pendingHeaders is how many streams may be without a header at once. More wait in the backlog.
	pendingHeaders = 64
)

// Uplink is the node's end of a tunnel. It is safe for concurrent use. Its goroutines end with the session;
// Close waits for them.
type Uplink struct {
	session    *yamux.Session
	control    *stream
	proxy      string
	rules      chan RulesPush // of capacity 1: holds what was pushed and not taken; only readControl sends
	streams    chan acceptedStream
	goroutines sync.WaitGroup
}

// acceptedStream is a session stream whose header has been read.
type acceptedStream struct {
	conn   net.Conn
	header Header
}

// Connect greets the proxy at the other end of conn, whose certificate the caller has verified, and signs the
// attachment with the node's service key. It takes conn over, and closes it when it fails. When the proxy
// refuses, the error is its *fault.Error.
func Connect(
	ctx context.Context,
	conn net.Conn,
	key crypto.Signer,
	id identity.MachineID,
	version string,
	now func() time.Time,
) (*Uplink, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	session, err := yamux.Client(newGuardedConn(conn), muxConfig())
	if err != nil {
		stop()
		conn.Close()
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	u := &Uplink{session: session, rules: make(chan RulesPush, 1), streams: make(chan acceptedStream)}
	err = u.greet(key, id, version, now)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		session.Close()
		return nil, fmt.Errorf("tunnel: greet the proxy: %w", err)
	}
	u.goroutines.Go(u.readControl)
	u.goroutines.Go(u.acceptStreams)
	return u, nil
}

// greet opens the control stream, answers Welcome with a signed attachment and waits for the proxy's result.
func (u *Uplink) greet(key crypto.Signer, id identity.MachineID, version string, now func() time.Time) error {
	raw, err := u.session.OpenStream()
	if err != nil {
		return err
	}
	u.control = &stream{Stream: raw}
	var w Welcome
	if err := readMessage(u.control, frameWelcome, &w); err != nil {
		return err
	}
	if w.V != Version || len(w.Nonce) != nonceBytes || identity.CheckMachineName(w.Proxy) != nil {
		return fault.New(fault.Invalid, "tunnel.Connect",
			"the proxy's greeting is malformed or of another version",
			"check that node and proxy versions match: threshold-node version",
		)
	}
	u.proxy = w.Proxy
	signed, err := SignAttachment(
		key,
		Attachment{Node: id, Proxy: w.Proxy, Nonce: w.Nonce, Time: now().UTC()},
	)
	if err != nil {
		return err
	}
	if err := writeMessage(u.control, frameHello,
		Hello{V: Version, Version: version, Attachment: signed, AcceptsHeads: true}); err != nil {
		return err
	}
	var v greetingResult
	if err := readMessage(u.control, frameResult, &v); err != nil {
		return err
	}
	if v.Fault != nil {
		return v.Fault
	}
	return nil
}

// readControl receives rules until the control stream ends, and with it the tunnel. It keeps the newest for
// Rules.
func (u *Uplink) readControl() {
	for {
		kind, body, err := readFrame(u.control, MaxFrameBytes)
		if err != nil {
			u.session.Close()
			return
		}
		var n RulesPush
		switch kind {
		case frameRules:
			n.Set = body
		case frameHead:
			n.Head = body
		default:
			continue
		}
		select { // no other goroutine sends, so there is room after an older push was taken out
		case older := <-u.rules:
			n = n.withOlder(older)
		default:
		}
		u.rules <- n
	}
}

// acceptStreams accepts the proxy's streams until the session ends, and starts a goroutine for each to read
// its header. A proxy that opens more than maxStreams loses the tunnel.
func (u *Uplink) acceptStreams() {
	slots := make(chan struct{}, pendingHeaders)
	for {
		select {
		case slots <- struct{}{}:
		case <-u.Done():
			return
		}
		raw, err := u.session.AcceptStream()
		if err != nil {
			return
		}
		if u.session.NumStreams() > maxStreams {
			u.session.Close()
			return
		}
		u.goroutines.Go(func() {
			defer func() { <-slots }()
			u.beginStream(&stream{Stream: raw})
		})
	}
}

// beginStream reads a stream's header and passes the stream to Accept. It closes a stream without a valid
// header.
func (u *Uplink) beginStream(s *stream) {
	_ = s.SetReadDeadline(time.Now().Add(headerTimeout))
	h, err := readHeader(s)
	if err != nil {
		s.Close()
		return
	}
	_ = s.SetReadDeadline(time.Time{})
	s.from = clientAddr(h)
	select {
	case u.streams <- acceptedStream{s, h}:
	case <-u.Done():
		s.Close()
	}
}

// Accept returns the next session stream and its header. The RemoteAddr of the connection is the header's
// From, which is the proxy's statement. After the tunnel has ended, it returns net.ErrClosed.
func (u *Uplink) Accept() (net.Conn, Header, error) {
	select {
	case o := <-u.streams:
		return o.conn, o.header, nil
	case <-u.Done():
		return nil, Header{}, net.ErrClosed
	}
}

// Rules returns the channel of rules pushes. It holds the set and the head that were pushed last; older ones
// that were not taken are dropped. Nothing in them is verified.
func (u *Uplink) Rules() <-chan RulesPush { return u.rules }

// Proxy is the proxy's name, as the proxy says. The caller compares it with the certificate.
func (u *Uplink) Proxy() string { return u.proxy }

// Done is closed when the tunnel has ended.
func (u *Uplink) Done() <-chan struct{} { return u.session.CloseChan() }

// Close ends the tunnel and every stream in it.
func (u *Uplink) Close() error {
	err := u.session.Close()
	u.goroutines.Wait()
	return err
}
