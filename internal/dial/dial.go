// Package dial answers: how does a client ask a proxy for a node?
//
// Over TLS with the ALPN name threshold-dial and a user certificate, the client sends a small request and
// goes on with SSH at once: it does not wait for the reply. The proxy sends one reply, and after an accepting
// one the bytes are the node's.
//
// Both messages are a version byte (1), two bytes of length (big endian), and JSON of that length. They also
// say what client, proxy and node understand: see features.go.
package dial

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/rules"
	"github.com/threshold-access/threshold/internal/wire"
)

// Version is the newest version of both messages, of which their first byte is the version.
const Version = 1

const (
	// MaxBytes bounds the JSON of a request, and of a reply without a document of machine locks.
	MaxBytes = 4 << 10
	// MaxLocksBytes bounds the document of machine locks in a reply: some 130 locks.
	MaxLocksBytes = 32 << 10
	// MaxReplyBytes bounds the JSON of a reply with such a document, which takes a third more in it.
	MaxReplyBytes = 48 << 10
)

// headBytes is the length of the version byte and the two bytes of length.
const headBytes = 3

// Request asks for a node by its whole name, by name.cluster, or by id. The client resolves short names
// itself: it asks auth which node is meant, so that no proxy decides it.
type Request struct {
	Critical wire.Critical `json:"critical,omitempty"` // fields of this message
	Node     string        `json:"node"`
	// Features is what the SSH client that uses the connection understands. The proxy tells the node.
	Features wire.Features `json:"features,omitempty"`
	// MachineLocks is the revision of the document of machine locks that the client has; the zero revision if
	// it has none. Nil: the client does not read such documents.
	MachineLocks *rules.Revision `json:"machine_locks,omitempty"`
}

// Reply says whether the proxy connects the client to the node.
type Reply struct {
	Critical wire.Critical `json:"critical,omitempty"` // fields of this message
	Fault    *fault.Error  `json:"fault,omitempty"`    // why not; nil: it does
	Features wire.Features `json:"features,omitempty"` // what the proxy understands
	// NodeFeatures is what the node's SSH server understands, as the node told the proxy.
	NodeFeatures wire.Features `json:"node_features,omitempty"`
	// MachineLocks is the document of machine locks, if it is newer than the one that the client has. A
	// client verifies it, as the proxy may be stolen.
	MachineLocks *rules.Signed `json:"machine_locks,omitempty"`
	// MachineLocksAt is the revision of the document, if that is newer and larger than MaxLocksBytes. The
	// client gets it from the auth service.
	MachineLocksAt *rules.Revision `json:"machine_locks_at,omitempty"`
}

// OfferMachineLocks puts into an accepting reply to req what the client lacks of the machine locks: nothing,
// if the document, whose revision is current, is not newer than the one that it has.
func (r *Reply) OfferMachineLocks(req Request, current rules.Revision, document rules.Signed) {
	switch {
	case req.MachineLocks == nil || !req.MachineLocks.Before(current):
	case len(document.Payload) > MaxLocksBytes:
		r.MachineLocksAt = &current
	default:
		r.MachineLocks = &document
	}
}

var (
	requestFields = wire.Fields(Request{})
	replyFields   = wire.Fields(Reply{})
)

// WriteRequest sends a request. extra, the first SSH bytes, goes into the same write.
func WriteRequest(w io.Writer, r Request, extra []byte) error {
	return writeMessage(w, r, MaxBytes, extra)
}

// ReadRequest reads a request. The caller sets the deadline.
func ReadRequest(r io.Reader) (Request, error) {
	const what = "the dial request"
	var req Request
	version, err := readMessage(r, what, MaxBytes, &req)
	if err == nil {
		err = wire.Check(what, version, Version, req.Critical, requestFields...)
	}
	if err != nil {
		return Request{}, err
	}
	return req, nil
}

// WriteReply sends a reply. One with a fault has nothing else, and a fault that has no room loses its
// arguments and a part of its text.
func WriteReply(w io.Writer, r Reply) error {
	if r.Fault != nil {
		const around = len(`{"fault":}`)
		if b, err := json.Marshal(r.Fault); err != nil || around+len(b) > MaxBytes {
			r.Fault = r.Fault.Shorten(MaxBytes - around)
		}
		r = Reply{Fault: r.Fault}
	}
	limit := MaxBytes
	if r.MachineLocks != nil { // the client has said that it reads them
		limit = MaxReplyBytes
	}
	return writeMessage(w, r, limit, nil)
}

// ReadReply reads a reply. A refusal is returned also if the reply has a critical field that is not known: a
// refusal can always be shown.
func ReadReply(r io.Reader) (Reply, error) {
	const what = "the proxy's reply"
	var rep Reply
	version, err := readMessage(r, what, MaxReplyBytes, &rep)
	if err == nil && rep.Fault == nil {
		err = wire.Check(what, version, Version, rep.Critical, replyFields...)
	}
	if err != nil {
		return Reply{}, err
	}
	return rep, nil
}

// writeMessage sends a message, which is a Request or a Reply of at most limit bytes, and extra behind it in
// the same write.
func writeMessage(w io.Writer, message any, limit int, extra []byte) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("dial: encode: %w", err)
	}
	if len(body) > limit {
		return fmt.Errorf("dial: message of %d bytes is larger than %d", len(body), limit)
	}
	b := make([]byte, 0, headBytes+len(body)+len(extra))
	b = append(b, Version)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(append(b, body...), extra...)
	_, err = w.Write(b)
	return err
}

// readMessage reads a message from r, decodes it into the Request or Reply that message points to, and
// returns its version. The caller checks the critical fields. It reads no byte behind the message. It refuses
// a version that it does not know, and more than limit bytes, before it allocates memory.
func readMessage(r io.Reader, what string, limit int, message any) (version int, err error) {
	var head [headBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return 0, fmt.Errorf("dial: read: %w", err)
	}
	version = int(head[0])
	if err := wire.Check(what, version, Version, nil); err != nil {
		return 0, err
	}
	n := binary.BigEndian.Uint16(head[1:])
	if int(n) > limit {
		return 0, fmt.Errorf("dial: message of %d bytes is larger than %d", n, limit)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return 0, fmt.Errorf("dial: read: %w", err)
	}
	if err := json.Unmarshal(body, message); err != nil {
		return 0, fmt.Errorf("dial: decode: %w", err)
	}
	return version, nil
}

// Client returns a connection to the node that r asks for, over conn, a TLS connection to a proxy. It
// exchanges the two messages without a round trip of its own: the first Write sends the request in front of
// its bytes, and the first Read reads the reply before the bytes of the node.
//
// If the proxy refuses, every Read returns its *fault.Error. A Read before the first Write waits, because the
// proxy sends nothing before it has the request.
func Client(conn net.Conn, r Request) *NodeConn { return &NodeConn{Conn: conn, req: r} }

// NodeConn is a connection to a node through a proxy. One goroutine may read while another writes.
type NodeConn struct {
	net.Conn
	req        Request
	firstWrite sync.Once
	firstRead  sync.Once
	// refusal is what every Read returns; set within firstRead. Nil: the proxy has accepted.
	refusal error
	reply   atomic.Pointer[Reply] // nil before the first Read
}

// NodeFeatures is what the node's SSH server understands, as the proxy says in its reply. It is empty before
// the first Read.
func (c *NodeConn) NodeFeatures() wire.Features { return c.Reply().NodeFeatures }

// Reply is the proxy's reply. It is empty before the first Read.
func (c *NodeConn) Reply() Reply {
	if reply := c.reply.Load(); reply != nil {
		return *reply
	}
	return Reply{}
}

// Write writes b, the first time with the request in front and in one piece.
func (c *NodeConn) Write(b []byte) (n int, err error) {
	isFirst := false
	c.firstWrite.Do(func() {
		isFirst = true
		if err = WriteRequest(c.Conn, c.req, b); err == nil {
			n = len(b)
		}
	})
	if isFirst {
		return n, err
	}
	return c.Conn.Write(b)
}

// Read reads what the node sends. The proxy's reply arrives before that; the first Read consumes it, so that
// the client need not wait for the reply before it writes. If the proxy refused, or its reply could not be
// read, this and every later Read return that error.
func (c *NodeConn) Read(b []byte) (int, error) {
	c.firstRead.Do(func() {
		reply, err := ReadReply(c.Conn)
		c.reply.Store(&reply)
		switch {
		case reply.Fault != nil:
			c.refusal = reply.Fault
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
			c.refusal = proxyClosedWithoutAnswer.Wrap(err, "dial")
		default: // nil if the proxy accepted
			c.refusal = err
		}
	})
	if c.refusal != nil {
		return 0, c.refusal
	}
	return c.Conn.Read(b)
}
