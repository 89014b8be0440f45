// Package fault answers: what went wrong, and what should the user do now?
//
// One error type crosses every process border (auth to proxy, proxy to tsh, node to tsh). A Code declares one
// way to fail, once; a fault has the code, the arguments and the English text that they make. A receiver that
// knows the code may translate it; all others show Msg and Remedy. The cause stays in the log of the process
// where it happened, and ID finds it there.
package fault

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"time"
)

// Kind classifies a fault. The set is append-only: a kind's name is on the wire.
type Kind string

const (
	// a defect of ours or of a machine; nothing that the caller sent is wrong
	Internal        Kind = "internal"
	Invalid         Kind = "invalid"         // the request can never succeed as it stands
	Unauthenticated Kind = "unauthenticated" // the caller has not shown who they are
	Denied          Kind = "denied"          // the caller is known, and may not do this
	Expired         Kind = "expired"         // it was valid once: a certificate, code, page or token
	NotFound        Kind = "not_found"       // it does not exist, or the caller may not know of it
	Conflict        Kind = "conflict"        // it was changed meanwhile, or exists already
	Unavailable     Kind = "unavailable"     // try again later: a part is down or unreachable
	Exhausted       Kind = "exhausted"       // a limit is reached: disk, attempts, size, rate
)

// Error is a fault: an error with what a user needs to act on it. Kind and Msg must be set. See MarshalJSON
// for what of it leaves the process.
type Error struct {
	Code       string // the name of the Code; empty: it has none
	Kind       Kind
	Op         string            // the operation, as "auth.FinishLogin"
	Msg        string            // what happened, safe for the caller to read
	Remedy     string            // one command or action, as "run: tsh login"
	Args       map[string]string // what Msg and Remedy name, by name
	RetryAfter time.Duration     // when it is worth while to try again; 0: nothing is known
	ID         string            // finds the log line; set by Public
	Err        error             // the cause; never leaves the process
}

// Error returns the operation, the message and the cause, for logs. Remote callers get Msg.
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

// Because returns a copy of e with err as its cause.
func (e *Error) Because(err error) *Error {
	out := *e
	out.Err = err
	return &out
}

// internalError is what other processes learn of an error that is no fault.
var internalError = Code{
	Name:   "internal-error",
	Kind:   Internal,
	Text:   "internal error",
	Remedy: "ask an administrator to look up the error id in the log",
}

// Public returns what another process may know of err: a copy of the first fault in err's chain, without its
// cause. An err without a fault becomes an Internal fault that says nothing about it. The copy has an ID, a
// new one if the fault had none. The caller writes that ID into the log beside err, so that a user who quotes
// it can be helped.
func Public(err error) *Error {
	out := WithoutCause(err)
	if out.ID == "" {
		out.ID = newID()
	}
	return out
}

// WithoutCause is Public without a new ID, for errors that are not logged.
func WithoutCause(err error) *Error {
	var e *Error
	if !errors.As(err, &e) {
		e = internalError.New("")
	}
	return e.Because(nil)
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

// CodeOf returns the name of the code of the first fault in err's chain, or "".
func CodeOf(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Code
	}
	return ""
}

// Is reports whether err is a fault of the kind.
func Is(err error, kind Kind) bool { return err != nil && KindOf(err) == kind }

// Remedy returns the remedy of the first fault in err's chain, or "".
func Remedy(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Remedy
	}
	return ""
}

// Message returns what a user should read of err: a fault's Msg, or else err's text.
func Message(err error) string {
	var e *Error
	if errors.As(err, &e) {
		return e.Msg
	}
	return err.Error()
}

// Report writes err as every program of ours does when it ends with one: the message, and the remedy where
// there is one.
func Report(w io.Writer, program string, err error) {
	fmt.Fprintf(w, "%s: error: %s\n", program, Message(err))
	if hint := Remedy(err); hint != "" {
		fmt.Fprintf(w, "%s: hint: %s\n", program, hint)
	}
}

func newID() string {
	var b [6]byte
	_, _ = rand.Read(b[:]) // crypto/rand never fails since Go 1.24
	return hex.EncodeToString(b[:])
}
