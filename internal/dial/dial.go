// Package dial answers: how does a client ask a proxy for a node?
//
// Over TLS with the ALPN name threshold-dial and a user certificate, the client sends a small request and
// goes on with SSH at once: it does not wait for the reply. The proxy sends one reply, and after an accepting
// one the bytes are the node's.
//
// Both messages are a version byte (1), two bytes of length (big endian), and JSON of that length.
//
// Inside SSH, a node's server reads the first requests of a session from the message that opens the channel:
// see ReadsEarlyRequests.
package dial

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"

	"github.com/threshold-access/threshold/internal/fault"
)

// Version is the version byte of both messages.
const Version = 1

// MaxBytes bounds the JSON of a request or reply.
const MaxBytes = 4 << 10

// headBytes is the length of the version byte and the two bytes of length.
const headBytes = 3

// Request asks for a node by its whole name, by name.cluster, or by id. The client resolves short names
// itself: it asks auth which node is meant, so that no proxy decides it.
type Request struct {
	Node string `json:"node"`
}

// Reply says whether the proxy connects the client to the node.
type Reply struct {
	Fault *fault.Error `json:"fault,omitempty"` // why not; nil: it does
}

// WriteRequest sends a request. extra, the first SSH bytes, goes into the same write.
func WriteRequest(w io.Writer, r Request, extra []byte) error { return writeMessage(w, r, extra) }

// ReadRequest reads a request. The caller sets the deadline.
func ReadRequest(r io.Reader) (req Request, err error) { return req, readMessage(r, &req) }

// WriteReply sends a reply. A fault that has no room in it loses its arguments and a part of its text.
func WriteReply(w io.Writer, r Reply) error {
	if r.Fault != nil {
		const around = len(`{"fault":}`)
		if b, err := json.Marshal(r.Fault); err != nil || around+len(b) > MaxBytes {
			r.Fault = r.Fault.Shorten(MaxBytes - around)
		}
	}
	return writeMessage(w, r, nil)
}

// ReadReply reads a reply.
func ReadReply(r io.Reader) (rep Reply, err error) { return rep, readMessage(r, &rep) }

// writeMessage sends a message, which is a Request or a Reply, and extra behind it in the same write.
func writeMessage(w io.Writer, message any, extra []byte) error {
	body, err := json.Marshal(message)
	if err != nil {
		return fmt.Errorf("dial: encode: %w", err)
	}
	if len(body) > MaxBytes {
		return fmt.Errorf("dial: message of %d bytes is larger than %d", len(body), MaxBytes)
	}
	b := make([]byte, 0, headBytes+len(body)+len(extra))
	b = append(b, Version)
	b = binary.BigEndian.AppendUint16(b, uint16(len(body)))
	b = append(append(b, body...), extra...)
	_, err = w.Write(b)
	return err
}

// readMessage reads a message from r and decodes it into the Request or Reply that message points to. It
// reads no byte behind the message. It refuses another version, and more than MaxBytes before it allocates
// memory.
func readMessage(r io.Reader, message any) error {
	var head [headBytes]byte
	if _, err := io.ReadFull(r, head[:]); err != nil {
		return fmt.Errorf("dial: read: %w", err)
	}
	if head[0] != Version {
		return fmt.Errorf("dial: version %d is not supported, want %d", head[0], Version)
	}
	n := binary.BigEndian.Uint16(head[1:])
	if n > MaxBytes {
		return fmt.Errorf("dial: message of %d bytes is larger than %d", n, MaxBytes)
	}
	body := make([]byte, n)
	if _, err := io.ReadFull(r, body); err != nil {
		return fmt.Errorf("dial: read: %w", err)
	}
	if err := json.Unmarshal(body, message); err != nil {
		return fmt.Errorf("dial: decode: %w", err)
	}
	return nil
}

// Client returns a connection to the node that r asks for, over conn, a TLS connection to a proxy. It
// exchanges the two messages without a round trip of its own: the first Write sends the request in front of
// its bytes, and the first Read reads the reply before the bytes of the node.
//
// If the proxy refuses, every Read returns its *fault.Error. A Read before the first Write waits, because the
// proxy sends nothing before it has the request.
func Client(conn net.Conn, r Request) net.Conn { return &client{Conn: conn, req: r} }

// client is the connection that Client returns. One goroutine may read while another writes.
type client struct {
	net.Conn
	req        Request
	firstWrite sync.Once
	firstRead  sync.Once
	refusal    error // what every Read returns; set within firstRead; nil: the proxy has accepted
}

// Write writes b, the first time with the request in front and in one piece.
func (c *client) Write(b []byte) (n int, err error) {
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
func (c *client) Read(b []byte) (int, error) {
	c.firstRead.Do(func() {
		reply, err := ReadReply(c.Conn)
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
