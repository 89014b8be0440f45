package session

import (
	"bytes"
	"testing"
)

// CheckMessage reads a note, whatever it is, and writes it again.
func CheckMessage(t *testing.T, b []byte) {
	n, err := parseMessage(b)
	if err != nil {
		return
	}
	if n.op == opError || n.op == opIncoming {
		n.number()
	}
	if !bytes.Equal(n.marshal(), b) {
		t.Errorf("got %x back, want %x", n.marshal(), b)
	}
}

// SetAccount makes the program somebody else's.
func (p *Process) SetAccount(acc Account) { p.acc = acc }
