package tunnel

import (
	"context"
	"crypto"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel/mux"
	"github.com/threshold-access/threshold/internal/wire"
)

const (
	// headerTimeout bounds the wait for a session stream's header.
	headerTimeout = 10 * time.Second
	// pendingHeaders is how many streams may be without a header at once. More wait in the backlog.
	pendingHeaders = 64
)

// Node is what a node says of itself to a proxy.
type Node struct {
	ID       identity.MachineID
	Key      crypto.Signer       // of its service certificate; signs the attachment
	Version  string              // the agent's release, for listings
	Instance identity.InstanceID // of this run of the agent
	Features wire.Features       // what the node and its SSH server understand
	Services []Service           // streams for other services are reset
	Now      func() time.Time
}

// Uplink is the node's end of a tunnel. It is safe for concurrent use. Its goroutines end with the session;
// Close waits for them.
type Uplink struct {
	session    *mux.Session
	control    *stream
	welcome    Welcome // the proxy's greeting
	services   []Service
	rules      chan PushedRules // of capacity 1: holds what was pushed and not taken; only readControl sends
	streams    chan acceptedStream
	goroutines sync.WaitGroup

	mu sync.Mutex // guards writes to control after the greeting
}

// acceptedStream is a session stream whose header has been read.
type acceptedStream struct {
	conn   net.Conn
	header Header
}

// Connect makes the node's end of a tunnel over conn, a connection to a proxy whose certificate the caller
// has verified: it starts the multiplexer and exchanges greetings with the proxy.
//
// Connect owns conn, and closes it if it returns an error. If the proxy refuses the node, the error contains
// the *fault.Error that the proxy sent. ctx has no effect after Connect has returned.
func Connect(ctx context.Context, conn net.Conn, node Node) (*Uplink, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // ends a greeting that waits for the proxy
	session := mux.New(conn, muxConfig(true))
	u := &Uplink{
		session:  session,
		services: node.Services,
		rules:    make(chan PushedRules, 1),
		streams:  make(chan acceptedStream),
	}
	err := u.greet(node)
	if ctxEnded := !stop(); ctxEnded && err == nil {
		err = context.Cause(ctx) // conn is closed, although the greeting succeeded
	}
	if err != nil {
		session.Close()
		return nil, fmt.Errorf("tunnel: greet the proxy: %w", err)
	}
	u.goroutines.Go(u.readControl)
	u.goroutines.Go(u.acceptStreams)
	return u, nil
}

// greet is the node's side of the greeting. It opens the control stream, reads Welcome, answers with a Hello
// that has the signed attachment, and reads the result. It returns nil if the proxy accepts the node, and the
// proxy's fault if it refuses. It sets u.control and u.welcome.
func (u *Uplink) greet(node Node) error {
	raw, err := u.session.Open()
	if err != nil {
		return err
	}
	u.control = &stream{Stream: raw}
	welcome, err := welcomeMessage.read(u.control)
	if err != nil {
		return err
	}
	if len(welcome.Nonce) != nonceBytes || identity.CheckMachineName(welcome.Proxy) != nil ||
		identity.CheckMachineID(welcome.ProxyID) != nil {
		return proxyGreetingMalformed.New("tunnel.Connect")
	}
	u.welcome = welcome
	signed, err := SignAttachment(node.Key, Attachment{
		Node:  node.ID,
		Proxy: welcome.Proxy,
		Nonce: welcome.Nonce,
		Time:  node.Now().UTC(),
	})
	if err != nil {
		return err
	}
	hello := Hello{
		V:          1,
		Version:    node.Version,
		Instance:   node.Instance,
		Attachment: signed,
		Features:   node.Features,
	}
	if err := helloMessage.write(u.control, hello); err != nil {
		return err
	}
	result, err := resultMessage.read(u.control)
	if err != nil {
		return err
	}
	if result.Fault != nil {
		return result.Fault // not returned when nil: a nil *fault.Error in an error is not nil
	}
	return nil
}

// readControl reads the control stream until the proxy ends it, and then ends the tunnel. It puts pushed
// rules into u.rules. It ignores frames of other kinds, which a newer proxy may send.
func (u *Uplink) readControl() {
	for {
		kind, body, err := readFrame(u.control, MaxFrameBytes)
		if err != nil {
			u.session.Close()
			return
		}
		if kind == frameRules || kind == frameHead {
			u.takeRules(kind, body)
		}
	}
}

// acceptStreams accepts the streams that the proxy opens, until the session ends. For each it starts a
// goroutine that reads the header, because a proxy may delay that. It accepts no more while pendingHeaders of
// them are running.
func (u *Uplink) acceptStreams() {
	slots := make(chan struct{}, pendingHeaders)
	for {
		select {
		case slots <- struct{}{}:
		case <-u.Done():
			return
		}
		raw, err := u.session.Accept(context.Background())
		if err != nil {
			return
		}
		u.goroutines.Go(func() {
			defer func() { <-slots }()
			u.beginStream(&stream{Stream: raw})
		})
	}
}

// beginStream reads the header of a stream, and hands the stream to the next call of Accept, for which it
// waits. It closes the stream if there is no header within headerTimeout, or if the tunnel ends. A stream
// whose header this node cannot use, or that is for a service that it does not have, is reset as unsupported.
func (u *Uplink) beginStream(s *stream) {
	_ = s.SetReadDeadline(time.Now().Add(headerTimeout))
	h, err := readHeader(s)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		s.Close()
		return
	case err != nil || !slices.Contains(u.services, h.Service):
		s.Reset(mux.Unsupported)
		return
	}
	_ = s.SetReadDeadline(time.Time{})
	s.from = net.TCPAddrFromAddrPort(h.From)
	select {
	case u.streams <- acceptedStream{s, h}:
	case <-u.Done():
		s.Close()
	}
}

// Accept waits for the next session stream and returns it with its header. The RemoteAddr of the connection
// is the client's address as the header gives it: nobody but the proxy vouches for it. After the tunnel has
// ended, Accept returns net.ErrClosed.
func (u *Uplink) Accept() (net.Conn, Header, error) {
	select {
	case accepted := <-u.streams:
		return accepted.conn, accepted.header, nil
	case <-u.Done():
		return nil, Header{}, net.ErrClosed
	}
}

// Proxy is the proxy's name, as the proxy says. The caller compares it with the certificate.
func (u *Uplink) Proxy() string { return u.welcome.Proxy }

// ProxyID is the proxy's id, as the proxy says. The caller compares it with the certificate.
func (u *Uplink) ProxyID() identity.MachineID { return u.welcome.ProxyID }

// Done is closed when the tunnel has ended.
func (u *Uplink) Done() <-chan struct{} { return u.session.Done() }

// Close ends the tunnel and every stream in it.
func (u *Uplink) Close() error {
	err := u.session.Close()
	u.goroutines.Wait()
	return err
}
