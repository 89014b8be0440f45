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

	"github.com/hashicorp/yamux"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/identity"
)

// Bounds of a greeting.
const (
	nonceBytes = 32
	maxVersion = 64
	// maxClockError is how far a node's clock may differ from the proxy's. With a greater difference
	// certificates and rules would fail with errors that are harder to understand.
	maxClockError = 5 * time.Minute
	// pushTimeout bounds a push of rules whose context has no deadline.
	pushTimeout = 30 * time.Second
)

// ErrNoGreeting says that a node closed the connection instead of greeting. A node does so when it finds that
// it already has a tunnel to this proxy.
var ErrNoGreeting = errors.New("the node closed the connection without a greeting")

// greetingResult ends the greeting. Without a fault the proxy accepts the node.
type greetingResult struct {
	Fault *fault.Error `json:"fault,omitempty"`
}

// Attached is the proxy's end of a tunnel. It is safe for concurrent use. Its goroutine ends with the
// session; Close waits for it.
type Attached struct {
	session *yamux.Session
	hello   Hello
	reader  sync.WaitGroup

	mu       sync.Mutex // guards writes to control, and sentDocs; held while a push is written
	control  *stream
	sentDocs [sha256.Size]byte // the digest of the documents pushed last; zero: none
}

// Accept greets the node at the other end of conn, whose certificate the caller has verified. It takes conn
// over, and closes it when it fails: when the greeting takes longer than 10 s, ctx ends meanwhile, or the
// node is refused. After it has returned, ctx has no effect.
func Accept(
	ctx context.Context,
	conn net.Conn,
	node identity.Peer,
	proxy string,
	now func() time.Time,
) (*Attached, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	session, err := yamux.Server(newGuardedConn(conn), muxConfig())
	if err != nil {
		stop()
		conn.Close()
		return nil, fmt.Errorf("tunnel: %w", err)
	}
	a := &Attached{session: session}
	err = a.greet(ctx, node, proxy, now)
	if !stop() && err == nil {
		err = context.Cause(ctx)
	}
	if err != nil {
		session.Close()
		return nil, fmt.Errorf("tunnel: greet %s: %w", node, err)
	}
	a.reader.Go(a.readControl)
	return a, nil
}

// greet sends Welcome, checks Hello and sends the result. It accepts the first stream as the control stream.
func (a *Attached) greet(ctx context.Context, node identity.Peer, proxy string, now func() time.Time) error {
	raw, err := a.session.AcceptStreamWithContext(ctx)
	if errors.Is(err, io.EOF) {
		return ErrNoGreeting
	}
	if err != nil {
		return err
	}
	a.control = &stream{Stream: raw}
	if err := a.session.GoAway(); err != nil { // refuses further streams from the node
		return err
	}
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
	if refusal != nil { // whether or not the node could be told
		a.waitForClose(ctx)
		return refusal
	}
	return err
}

// waitForClose waits until the node has read why it was refused and closes the connection, or ctx ends.
func (a *Attached) waitForClose(ctx context.Context) {
	select {
	case <-a.session.CloseChan():
	case <-ctx.Done():
	}
}

// check compares the greeting with the node's certificate, this proxy, this tunnel's nonce and the time.
func (h Hello) check(node identity.Peer, w Welcome, now time.Time) *fault.Error {
	const op = "tunnel.Accept"
	if h.V != Version || len(h.Version) > maxVersion ||
		(h.Version != "" && identity.CheckText("version", h.Version) != nil) {
		return fault.New(fault.Invalid, op,
			"the node's greeting is malformed or of another version",
			"check that node and proxy versions match: threshold-node version",
		)
	}
	at, err := h.Attachment.Verify(node.Cert.PublicKey)
	if err != nil || at.Node != node.ID || at.Proxy != w.Proxy ||
		subtle.ConstantTimeCompare(at.Nonce, w.Nonce) != 1 {
		return &fault.Error{
			Kind:   fault.Denied,
			Op:     op,
			Msg:    "the attachment is not signed by this node for this proxy and tunnel",
			Remedy: "restart the node; if that does not help, remove its data and let it join again",
			Err:    err,
		}
	}
	if off := at.Time.Sub(now); off.Abs() > maxClockError {
		return fault.New(fault.Invalid, op,
			fmt.Sprintf("the node's clock is off by %s (it says %s, the proxy says %s)",
				off.Round(time.Second), at.Time.UTC().Format(time.RFC3339), now.UTC().Format(time.RFC3339)),
			"set the node's clock; an NTP service keeps it right",
		)
	}
	return nil
}

// readControl ends the tunnel when the node ends the control stream. In this version the node sends nothing
// on it after the greeting; frames are skipped.
func (a *Attached) readControl() {
	for {
		if _, _, err := readFrame(a.control, MaxHeaderBytes); err != nil {
			a.session.Close()
			return
		}
	}
}

// Open opens a session stream. It returns before the node has accepted the stream: a node that does not serve
// it closes it.
func (a *Attached) Open(ctx context.Context, h Header) (net.Conn, error) {
	h.V = Version
	if err := h.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	raw, err := a.session.OpenStream()
	if err != nil {
		return nil, fault.Wrap(err, fault.Unavailable, "tunnel.Open",
			"the tunnel to the node has ended",
			"try again in a few seconds",
		)
	}
	s := &stream{Stream: raw}
	stop := context.AfterFunc(ctx, func() { s.Close() })
	err = writeMessage(s, frameHeader, h)
	if !stop() && err == nil {
		err = ctx.Err()
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

// PushRules sends rules to the node: the whole set, or the head alone where the node accepts heads and this
// tunnel carried the same documents last. Pushes arrive complete and in order. When PushRules fails, the
// tunnel has ended, because a part of a frame may have been sent.
func (a *Attached) PushRules(ctx context.Context, n RulesPush) error {
	deadline, has := ctx.Deadline()
	if !has {
		deadline = time.Now().Add(pushTimeout)
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if err := a.control.SetWriteDeadline(deadline); err != nil {
		return fmt.Errorf("tunnel: push rules: %w", err)
	}
	stop := context.AfterFunc(ctx, func() { a.session.Close() })
	kind, body := n.nextFrame(a.hello.AcceptsHeads, a.sentDocs)
	err := writeFrame(a.control, kind, body)
	if !stop() && err == nil {
		err = ctx.Err()
	}
	if err != nil {
		a.session.Close()
		return fmt.Errorf("tunnel: push rules: %w", err)
	}
	a.sentDocs = n.DocsDigest
	return nil
}

// Attachment is the node's signed statement that it is attached to this proxy.
func (a *Attached) Attachment() SignedAttachment { return a.hello.Attachment }

// Version is the release of the agent, as the node says.
func (a *Attached) Version() string { return a.hello.Version }

// Streams counts the open session streams.
func (a *Attached) Streams() int { return max(0, a.session.NumStreams()-1) }

// Done is closed when the tunnel has ended.
func (a *Attached) Done() <-chan struct{} { return a.session.CloseChan() }

// Close ends the tunnel and every stream in it.
func (a *Attached) Close() error {
	err := a.session.Close()
	a.reader.Wait()
	return err
}
