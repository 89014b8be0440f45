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
	"github.com/threshold-access/threshold/internal/wire"
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
	V        int           `json:"v"`
	Critical wire.Critical `json:"critical,omitempty"` // fields of this message
	Fault    *fault.Error  `json:"fault,omitempty"`    // why the node is refused; nil: it is accepted
}

// Proxy is what a proxy says of itself to its nodes.
type Proxy struct {
	ID       identity.MachineID // in its certificate
	Name     string             // in its certificate
	Features wire.Features      // what it understands
	Now      func() time.Time
	// Refuse returns why the proxy does not accept the node, whose greeting is valid, or nil. Nil: it accepts
	// every node.
	Refuse func() *fault.Error
}

// Attached is the proxy's end of a tunnel. It is safe for concurrent use. Its goroutine ends with the
// session; Close waits for it.
type Attached struct {
	session *mux.Session
	hello   Hello          // the node's greeting, checked
	reader  sync.WaitGroup // of readControl

	rulesWanted  chan struct{} // has an element when the node lacks pieces of the rules; of capacity 1
	acknowledged chan []byte   // of capacity 1: see Acknowledged

	mu         sync.Mutex // guards writes to control, and the fields below; held while a push is written
	control    *stream
	carried    map[string][sha256.Size]byte // the Digests of the last push, less what the node lacks
	repeatedAt time.Time                    // when the node last made the proxy send pieces again
}

// Accept makes the proxy's end of a tunnel over conn: it starts the multiplexer and exchanges greetings with
// the node. node is the verified certificate of the node.
//
// Accept owns conn, and closes it if it returns an error: if the greeting takes longer than greetTimeout, if
// ctx ends meanwhile, or if the node's greeting is refused. ctx has no effect after Accept has returned.
func Accept(
	ctx context.Context,
	conn net.Conn,
	node identity.Peer,
	proxy Proxy,
) (*Attached, error) {
	ctx, cancel := context.WithTimeout(ctx, greetTimeout)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { conn.Close() }) // ends a greeting that waits for the node
	session := mux.New(conn, muxConfig(false))
	a := &Attached{
		session:      session,
		rulesWanted:  make(chan struct{}, 1),
		acknowledged: make(chan []byte, 1),
	}
	err := a.greet(ctx, node, proxy)
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
func (a *Attached) greet(ctx context.Context, node identity.Peer, proxy Proxy) error {
	raw, err := a.session.Accept(ctx)
	if errors.Is(err, io.EOF) {
		return ErrNoGreeting
	}
	if err != nil {
		return err
	}
	a.control = &stream{Stream: raw}
	welcome := Welcome{
		V:        1,
		Proxy:    proxy.Name,
		ProxyID:  proxy.ID,
		Nonce:    make([]byte, nonceBytes),
		Features: proxy.Features,
	}
	_, _ = rand.Read(welcome.Nonce) // crypto/rand never fails since Go 1.24
	if err := welcomeMessage.write(a.control, welcome); err != nil {
		return err
	}
	var refusal *fault.Error
	hello, err := helloMessage.read(a.control)
	switch {
	case fault.Is(err, fault.Invalid): // of a newer node
		refusal = nodeGreetingUnreadable.New("tunnel.Accept", fault.Args{"why": fault.Message(err)})
	case err != nil:
		return err
	default:
		a.hello, refusal = hello, hello.check(node, welcome, proxy.Now())
		if refusal == nil && proxy.Refuse != nil {
			refusal = proxy.Refuse()
		}
	}
	err = resultMessage.write(a.control, greetingResult{V: 1, Fault: refusal})
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
	if len(h.Version) > maxVersion || (h.Version != "" && identity.CheckText("version", h.Version) != nil) {
		return nodeGreetingUnreadable.New(op, fault.Args{"why": "it has no valid release"})
	}
	if err := h.Instance.Check(); err != nil {
		return nodeGreetingUnreadable.New(op, fault.Args{"why": err.Error()})
	}
	attachment, err := h.Attachment.Verify(node.Cert.PublicKey)
	if fault.Is(err, fault.Invalid) { // signed by the node, and newer than this proxy
		return nodeGreetingUnreadable.New(op, fault.Args{"why": fault.Message(err)})
	}
	if err != nil || attachment.Node != node.ID || attachment.Proxy != welcome.Proxy ||
		subtle.ConstantTimeCompare(attachment.Nonce, welcome.Nonce) != 1 {
		return attachmentInvalid.New(op).Because(err)
	}
	if ahead := attachment.Time.Sub(now); ahead.Abs() > maxClockError {
		return greetingClockWrong.New(op, fault.Args{
			"off":        ahead.Round(time.Second),
			"node_time":  attachment.Time.UTC().Format(time.RFC3339),
			"proxy_time": now.UTC().Format(time.RFC3339),
		})
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
		switch kind {
		case frameRepeatRules:
			a.takeRepeatRequest(body)
		case frameAcknowledgement:
			a.takeAcknowledgement(body)
		}
	}
}

// Open opens a session stream to the node and sends header h on it. It does not wait for the node. A node
// that does not serve the stream closes it, and then the caller's first Read fails. ctx bounds Open alone,
// not the stream. The error is a fault of kind Unavailable if the tunnel has ended or is stuck.
func (a *Attached) Open(ctx context.Context, h Header) (net.Conn, error) {
	h.V = 1
	if err := h.check(); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	raw, err := a.session.Open()
	if err != nil {
		return nil, tunnelEnded.Wrap(err, "tunnel.Open")
	}
	s := &stream{Stream: raw}
	stop := context.AfterFunc(ctx, func() { s.Close() }) // ends a write that waits for the node
	err = headerMessage.write(s, h)
	if ctxEnded := !stop(); ctxEnded && err == nil {
		err = ctx.Err() // the stream is closed, although the header was sent
	}
	if err != nil {
		s.Close()
		return nil, tunnelStuck.Wrap(err, "tunnel.Open")
	}
	return s, nil
}

// Attachment is the node's signed statement that it is attached to this proxy.
func (a *Attached) Attachment() SignedAttachment { return a.hello.Attachment }

// Version is the release of the agent, as the node says.
func (a *Attached) Version() string { return a.hello.Version }

// Instance names the run of the agent, as the node says.
func (a *Attached) Instance() identity.InstanceID { return a.hello.Instance }

// Features is what the node and its SSH server understand, as the node says.
func (a *Attached) Features() wire.Features { return a.hello.Features }

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
