package tsh

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
)

// exitStatus ends tsh with this code and no word: the remote command has said what there is to say.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// exitConnect is what ssh gives when there is no remote status.
const exitConnect = 255

// connectError is an error of tsh ssh or tsh proxy ssh itself, told apart from any status of the remote command.
type connectError struct{ err error }

func (e *connectError) Error() string { return e.err.Error() }
func (e *connectError) Unwrap() error { return e.err }

// report prints an error and what to do about it.
func (a *app) report(err error) {
	msg, hint := explain(err)
	fmt.Fprintf(a.Stderr, "tsh: error: %s\n", msg)
	fmt.Fprintf(a.Stderr, "tsh: hint: %s\n", hint)
}

func explain(err error) (msg, hint string) {
	if errors.Is(err, context.Canceled) {
		return "interrupted", "run the command again when you are ready"
	}
	if unknown := err.Error(); strings.HasPrefix(unknown, "unknown command") {
		return clean(strings.ReplaceAll(unknown, "\n", " ")), "see: tsh --help"
	}
	msg, hint = cleanLines(fault.Message(err)), clean(fault.Remedy(err))
	if hint == "" {
		hint = "if it stays so, show this message to an administrator"
	}
	var f *fault.Error
	if errors.As(err, &f) && f.ID != "" && f.Kind == fault.Internal {
		msg += " (error id " + clean(f.ID) + ")"
	}
	return msg, hint
}
