package session

import (
	"bytes"
	"testing"
)

// CheckNote reads a note, whatever it is, and writes it again.
func CheckNote(t *testing.T, b []byte) {
	n, err := parseNote(b)
	if err != nil {
		return
	}
	if n.op == opFailed || n.op == opCame {
		n.number()
	}
	if !bytes.Equal(n.marshal(), b) {
		t.Errorf("got %x back, want %x", n.marshal(), b)
	}
}

// Of makes the program somebody else's.
func (p *Process) Of(acc Account) { p.acc = acc }
