// Package prefixconn answers: how is a connection handed on after its first bytes have been read?
package prefixconn

import "net"

// Conn is a connection some of whose bytes have been read already, to see what they are: the prefix. Read
// returns the prefix first, and then reads from the connection beneath. As with any net.Conn, one goroutine
// may read while another writes; Read, Prefix, Fill and Discard belong to the one that reads.
type Conn struct {
	net.Conn
	prefix []byte // not yet returned by Read; nil when there is none, so that the memory can be freed
}

// New makes a connection over conn whose Read returns prefix first. It keeps the slice.
func New(conn net.Conn, prefix []byte) *Conn {
	if len(prefix) == 0 {
		prefix = nil
	}
	return &Conn{Conn: conn, prefix: prefix}
}

// Read implements io.Reader. One call gives bytes of the prefix or of the connection, never of both.
func (c *Conn) Read(b []byte) (int, error) {
	if len(c.prefix) == 0 {
		return c.Conn.Read(b)
	}
	n := copy(b, c.prefix)
	c.Discard(n)
	return n, nil
}

// Prefix is what was read ahead and not yet given. It is valid until the next call of Read, Fill or Discard.
func (c *Conn) Prefix() []byte { return c.prefix }

// Fill makes the prefix longer: it calls Read of the connection beneath once, for up to n bytes, and appends
// them to the prefix. As with io.Reader, it may have appended bytes although it returns an error.
func (c *Conn) Fill(n int) error {
	have := len(c.prefix)
	if cap(c.prefix)-have < n {
		grown := make([]byte, have, have+n)
		copy(grown, c.prefix)
		c.prefix = grown
	}
	got, err := c.Conn.Read(c.prefix[have : have+n])
	c.prefix = c.prefix[:have+got]
	return err
}

// Discard drops the first n bytes of the prefix, which holds at least as many.
func (c *Conn) Discard(n int) {
	if c.prefix = c.prefix[n:]; len(c.prefix) == 0 {
		c.prefix = nil
	}
}

// CloseWrite closes the sending half of the connection beneath, or all of it where it has no halves.
func (c *Conn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return c.Conn.Close()
}
