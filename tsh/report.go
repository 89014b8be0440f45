package tsh

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// exitStatus is an error that ends tsh with this code and prints nothing: the remote command has printed what
// there is to say.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// exitConnect is the exit code of ssh if there is no status of a remote command.
const exitConnect = 255

// report prints an error and what to do about it.
func (a *app) report(err error) {
	msg, hint := describeError(err)
	fmt.Fprintf(a.Stderr, "tsh: error: %s\n", msg)
	fmt.Fprintf(a.Stderr, "tsh: hint: %s\n", hint)
}

// describeError returns the message and the hint for an error, both safe to print and neither empty. Only an
// Internal fault has an id in its message, by which an administrator finds the log line.
func describeError(err error) (msg, hint string) {
	if errors.Is(err, context.Canceled) {
		return "interrupted", "run the command again when you are ready"
	}
	var f *fault.Error
	// cobra's error for an unknown command ends in suggestions, one a line.
	unknown, similar, _ := strings.Cut(err.Error(), "\n\n")
	if !errors.As(err, &f) && strings.HasPrefix(unknown, "unknown command") {
		similar = strings.Join(strings.Fields(strings.TrimPrefix(similar, "Did you mean this?")), ", or tsh ")
		if similar != "" {
			return terminal.Clean(unknown), "did you mean: tsh " + terminal.Clean(similar)
		}
		return terminal.Clean(unknown), "see: tsh --help"
	}
	msg, hint = terminal.CleanLines(fault.Message(err)), terminal.Clean(fault.Remedy(err))
	if hint == "" {
		hint = "if it happens again, show this message to an administrator"
	}
	if errors.As(err, &f) && f.ID != "" && f.Kind == fault.Internal {
		msg += " (error id " + terminal.Clean(f.ID) + ")"
	}
	return msg, hint
}
