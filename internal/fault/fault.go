// Package fault answers: what went wrong, and what should the person do now?
//
// One error type crosses every process border (auth to proxy, proxy to tsh, node to tsh). What the caller may
// read is in Msg and Remedy; the cause stays home, in the log, found by ID.
package fault

import (
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
)

// Kind classifies a fault. The set is append-only: a kind's name is on the wire.
type Kind string

const (
	Internal        Kind = "internal"        // our defect, or a machine's: nothing the caller sent is wrong
	Invalid         Kind = "invalid"         // the request can never succeed as it stands
	Unauthenticated Kind = "unauthenticated" // who the caller is has not been shown
	Denied          Kind = "denied"          // the caller is known, and may not
	Expired         Kind = "expired"         // it was valid once: a certificate, a code, a page, a token
	NotFound        Kind = "not_found"       // no such thing, or none the caller may know of
	Conflict        Kind = "conflict"        // somebody changed it meanwhile, or it exists already
	Unavailable     Kind = "unavailable"     // try again later: a part is down or unreachable
	Exhausted       Kind = "exhausted"       // a limit: disk, attempts, size, rate
)

// Error is a fault a person can act on. The zero value is not a valid fault: make one with New, or by a
// literal with Kind and Msg set.
type Error struct {
	Kind   Kind   `json:"kind"`
	Op     string `json:"op,omitempty"`     // the operation, as "auth.FinishLogin"
	Msg    string `json:"msg"`              // what happened, safe for the caller to read
	Remedy string `json:"remedy,omitempty"` // one command or action: "run: tsh login"
	ID     string `json:"id,omitempty"`     // finds the log line; set by WithID
	Err    error  `json:"-"`                // the cause; never leaves the process
}

// New makes a fault with no cause.
func New(kind Kind, op, msg, remedy string) *Error {
	return &Error{Kind: kind, Op: op, Msg: msg, Remedy: remedy}
}

// Wrap makes a fault caused by err. It returns nil when err is nil.
func Wrap(err error, kind Kind, op, msg, remedy string) error {
	if err == nil {
		return nil
	}
	return &Error{Kind: kind, Op: op, Msg: msg, Remedy: remedy, Err: err}
}

// Error gives what happened and, for logs, why. It is not what a remote caller sees: that is Msg.
func (e *Error) Error() string {
	s := e.Msg
	if e.Op != "" {
		s = e.Op + ": " + s
	}
	if e.Err != nil {
		s += ": " + e.Err.Error()
	}
	return s
}

func (e *Error) Unwrap() error { return e.Err }

// Public returns what may cross the border: a copy without the cause, with an ID that the caller's log line
// should carry. An error that is no fault becomes an Internal one that says nothing of its cause.
func Public(err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		e = &Error{
			Kind:   Internal,
			Msg:    "internal error",
			Remedy: "ask an administrator to look up the error id in the log",
		}
	}
	out := *e
	out.Err = nil
	if out.ID == "" {
		out.ID = newID()
	}
	return &out
}

// KindOf returns the kind of the first fault in err's chain, Internal for any other error, and "" for nil.
func KindOf(err error) Kind {
	if err == nil {
		return ""
	}
	var e *Error
	if errors.As(err, &e) {
		return e.Kind
	}
	return Internal
}

// Is reports whether err is a fault of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// Remedy returns what the first fault in err's chain tells the person to do, or "".
func Remedy(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Remedy
	}
	return ""
}

// Message returns what a person should read of err: a fault's Msg, else err's own text.
func Message(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Msg
	}
	return err.Error()
}

// Report writes err as every program of ours ends with one: what happened, and what to do next where that is
// known.
func Report(w io.Writer, program string, err error) {
	fmt.Fprintf(w, "%s: error: %s\n", program, Message(err))
	if hint := Remedy(err); hint != "" {
		fmt.Fprintf(w, "%s: hint: %s\n", program, hint)
	}
}

// Decode reads a fault from its JSON form. Bytes that are none give an Internal fault, so a caller always has
// one to show.
func Decode(b []byte) *Error {
	var e Error
	if err := json.Unmarshal(b, &e); err != nil || e.Kind == "" || e.Msg == "" {
		return &Error{
			Kind:   Internal,
			Msg:    "the server's answer could not be read",
			Remedy: "check that client and server versions match: tsh version",
			Err:    fmt.Errorf("decode fault: %d bytes", len(b)),
		}
	}
	return &e
}

func newID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
