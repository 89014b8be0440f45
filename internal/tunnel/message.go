package tunnel

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/threshold-access/threshold/internal/wire"
)

// message is a kind of small frame, whose body is the JSON of a T. A T has the fields v and critical.
type message[T any] struct {
	kind   frameKind
	what   string   // names it in errors
	fields []string // of a T
}

func newMessage[T any](kind frameKind, what string) message[T] {
	var zero T
	return message[T]{kind: kind, what: what, fields: wire.Fields(zero)}
}

var (
	welcomeMessage = newMessage[Welcome](frameWelcome, "the proxy's greeting")
	helloMessage   = newMessage[Hello](frameHello, "the node's greeting")
	resultMessage  = newMessage[greetingResult](frameResult, "the proxy's answer to the greeting")
	headerMessage  = newMessage[Header](frameHeader, "the header of a stream")
	repeatMessage  = newMessage[repeatRequest](frameRepeatRules, "the node's request for rules")
)

// write writes v in a frame of at most MaxHeaderBytes.
func (m message[T]) write(w io.Writer, v T) error {
	body, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("tunnel: encode %s: %w", m.what, err)
	}
	if len(body) > MaxHeaderBytes {
		return fmt.Errorf("tunnel: %s has %d bytes, more than %d", m.what, len(body), MaxHeaderBytes)
	}
	return writeFrame(w, m.kind, body)
}

// read reads a frame of at most MaxHeaderBytes, which must be of this kind, and decodes it.
func (m message[T]) read(r io.Reader) (v T, err error) {
	kind, body, err := readFrame(r, MaxHeaderBytes)
	if err != nil {
		return v, err
	}
	if kind != m.kind {
		return v, fmt.Errorf("tunnel: got a frame of kind %d, want %s", kind, m.what)
	}
	return m.decode(body)
}

// decode decodes the body of a frame, if this program may use it: see wire.Check.
func (m message[T]) decode(body []byte) (v T, err error) {
	err = wire.Unmarshal(m.what, body, &v, Version, m.fields)
	return v, err
}
