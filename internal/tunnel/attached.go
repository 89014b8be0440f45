package tunnel

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
	"github.com/threshold-access/threshold/internal/tunnel/mux"
)

// Bounds of a greeting.
const (
	nonceBytes = 32
	maxVersion = 64
	// maxClockError is how far a node's clock may differ from the proxy's. With a greater difference
	// certificates and rules would fail with errors that are harder to understand.
	maxClockError = 5 * time.Minute
)

// ErrNoGreeting says that a node closed the connection instead of greeting. A node does so when it finds that
// it already has a tunnel to this proxy.
var ErrNoGreeting = errors.New("the node closed the connection without a greeting")

// greetingResult is the last message of the greeting, by which the proxy accepts or refuses the node.
type greetingResult struct {
	Fault *fault.Error `json:"fault,omitempty"` // why the node is refused; nil: it is accepted
}

// Attached is the proxy's end of a tunnel. It is safe for concurrent use. Its goroutine ends with the
// session; Close waits for it.
type Attached struct {
	session *mux.Session
	hello   Hello          // the node's greeting, checked
	reader  sync.WaitGroup // of readControl

	rulesWanted chan struct{} // has an element when the node lacks pieces of the rules; of capacity 1

	mu         sync.Mutex // guards writes to control, and the fields below; held while a push is written
	control    *stream
	carried    map[string][sha256.Size]byte // the Digests of the last push, less what the node lacks
	repeatedAt time.Time                    // when the node last made the proxy send pieces again
}

// Accept makes the proxy's end of a tunnel over conn: it starts the multiplexer and exchanges greetings with
// the node. node is the verified certificate of the node; proxy is the name of this proxy.
//
// Accept owns conn, and closes it if it returns an error: if the greeting takes longer than greetTimeout, if
// ctx ends meanwhile, or if the node's greeting is refused. ctx has no effect after Accept has returned.
func Accept(
	ctx context.Context,
	conn net.Conn,
	node identity.Peer,
	proxy string,
	now func() time.Time,
) (*Attached, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // ends a greeting that waits for the node
	session := mux.New(conn, muxConfig(false))
	a := &Attached{
		session:     session,
		rulesWanted: make(chan struct{}, 1),
	}
	err := a.greet(ctx, node, proxy, now)
	if ctxEnded := !stop(); ctxEnded && err == nil {
		err = context.Cause(ctx) // conn is closed, although the greeting succeeded
	}
	if err != nil {
		session.Close()
		return nil, fmt.Errorf("tunnel: greet %s: %w", node, err)
	}
	a.reader.Go(a.readControl)
	return a, nil
}

// greet is the proxy's side of the greeting. It accepts the first stream, which becomes the control stream
// and stays the only one that the node may open. On it greet sends Welcome, reads Hello, checks the Hello,
// and sends the result. It returns nil if the node is accepted, the fault that was sent if it is refused, and
// ErrNoGreeting if the node closed the connection.
func (a *Attached) greet(ctx context.Context, node identity.Peer, proxy string, now func() time.Time) error {
	raw, err := a.session.Accept(ctx)
	if errors.Is(err, io.EOF) {
		return ErrNoGreeting
	}
	if err != nil {
		return err
	}
	a.control = &stream{Stream: raw}
	welcome := Welcome{V: Version, Proxy: proxy, Nonce: make([]byte, nonceBytes)}
	_, _ = rand.Read(welcome.Nonce) // crypto/rand never fails since Go 1.24
	if err := writeMessage(a.control, frameWelcome, welcome); err != nil {
		return err
	}
	if err := readMessage(a.control, frameHello, &a.hello); err != nil {
		return err
	}
	refusal := a.hello.check(node, welcome, now())
	err = writeMessage(a.control, frameResult, greetingResult{Fault: refusal})
	if refusal != nil { // returned even if it could not be sent
		a.waitForClose(ctx)
		return refusal
	}
	return err
}

// waitForClose waits until the node closes the connection, or ctx ends. If the proxy closed it at once, the
// node might not receive why it is refused.
func (a *Attached) waitForClose(ctx context.Context) {
	select {
	case <-a.session.Done():
	case <-ctx.Done():
	}
}

// check returns why the proxy refuses a node with this greeting, or nil. The attachment must be signed with
// the key in the node's certificate, and be for this proxy, for the nonce that welcome sent over this tunnel,
// and for a time near now. So it cannot be a copy from another tunnel.
func (h Hello) check(node identity.Peer, welcome Welcome, now time.Time) *fault.Error {
	const op = "tunnel.Accept"
	if h.V != Version || len(h.Version) > maxVersion ||
		(h.Version != "" && identity.CheckText("version", h.Version) != nil) {
		return fault.New(fault.Invalid, op,
			"the node's greeting is malformed or of another version",
			"check that node and proxy versions match: threshold-node version",
		)
	}
	attachment, err := h.Attachment.Verify(node.Cert.PublicKey)
	if err != nil || attachment.Node != node.ID || attachment.Proxy != welcome.Proxy ||
		subtle.ConstantTimeCompare(attachment.Nonce, welcome.Nonce) != 1 {
		return &fault.Error{
			Kind:   fault.Denied,
			Op:     op,
			Msg:    "the attachment is not signed by this node for this proxy and tunnel",
			Remedy: "restart the node; if that does not help, remove its data and let it join again",
			Err:    err,
		}
	}
	if ahead := attachment.Time.Sub(now); ahead.Abs() > maxClockError {
		nodeTime, proxyTime := attachment.Time.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)
		return fault.New(fault.Invalid, op,
			fmt.Sprintf("the node's clock is off by %s (it says %s, the proxy says %s)",
				ahead.Round(time.Second), nodeTime, proxyTime),
			"set the node's clock; an NTP service keeps it right",
		)
	}
	return nil
}

// readControl reads the control stream until the node ends it, and then ends the tunnel. Frames of kinds that
// only a newer node sends are ignored.
func (a *Attached) readControl() {
	for {
		kind, body, err := readFrame(a.control, MaxHeaderBytes)
		if err != nil {
			a.session.Close()
			return
		}
		if kind == frameRepeatRules {
			a.takeRepeatRequest(body)
		}
	}
}

// Open opens a session stream to the node and sends header h on it. It does not wait for the node. A node
// that does not serve the stream closes it, and then the caller's first Read fails. ctx bounds Open alone,
// not the stream. The error is a fault of kind Unavailable if the tunnel has ended or is stuck.
func (a *Attached) Open(ctx context.Context, h Header) (net.Conn, error) {
	h.V = Version
	if err := h.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	raw, err := a.session.Open()
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "tunnel.Open",
			"the tunnel to the node has ended",
			"try again in a few seconds",
		)
	}
	s := &stream{Stream: raw}
	stop := context.AfterFunc(ctx, func() { s.Close() }) // ends a write that waits for the node
	err = writeMessage(s, frameHeader, h)
	if ctxEnded := !stop(); ctxEnded && err == nil {
		err = ctx.Err() // the stream is closed, although the header was sent
	}
	if err != nil {
		s.Close()
		return nil, fault.Wrap(err, fault.Unavailable, "tunnel.Open",
			"the tunnel to the node does not accept data",
			"try again in a few seconds",
		)
	}
	return s, nil
}

// Attachment is the node's signed statement that it is attached to this proxy.
func (a *Attached) Attachment() SignedAttachment { return a.hello.Attachment }

// Version is the release of the agent, as the node says.
func (a *Attached) Version() string { return a.hello.Version }

// Streams counts the open session streams.
func (a *Attached) Streams() int { return max(0, a.session.Streams()-1) }

// Done is closed when the tunnel has ended.
func (a *Attached) Done() <-chan struct{} { return a.session.Done() }

// Close ends the tunnel and every stream in it.
func (a *Attached) Close() error {
	err := a.session.Close()
	a.reader.Wait()
	return err
}
