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

// exitSSHError is the exit code of "tsh ssh" and "tsh proxy ssh" after an error of tsh itself, as of ssh(1):
// remote commands seldom end with this status, so a script can distinguish the two.
const exitSSHError = 255

// report prints an error and what to do about it.
func (a *app) report(err error) {
	msg, hint := describeError(err)
	fmt.Fprintf(a.Stderr, "tsh: error: %s\n", msg)
	fmt.Fprintf(a.Stderr, "tsh: hint: %s\n", hint)
}

// describeError returns the message and the hint for an error, both safe to print and neither empty. An
// interruption, cobra's error for an unknown command and a fault without a remedy get a hint here. The
// message of an Internal fault ends with its id, by which an administrator finds the log line.
func describeError(err error) (msg, hint string) {
	if errors.Is(err, context.Canceled) {
		return "interrupted", "run the command again when you are ready"
	}
	var f *fault.Error
	isFault := errors.As(err, &f)
	// cobra's error for an unknown command is "unknown command …", then an empty line and "Did you mean
	// this?" with one similar command a line, if there are any.
	firstPart, suggestions, _ := strings.Cut(err.Error(), "\n\n")
	if !isFault && strings.HasPrefix(firstPart, "unknown command") {
		similar := strings.Fields(strings.TrimPrefix(suggestions, "Did you mean this?"))
		if len(similar) > 0 {
			list := strings.Join(similar, ", or tsh ")
			return terminal.Clean(firstPart), "did you mean: tsh " + terminal.Clean(list)
		}
		return terminal.Clean(firstPart), "see: tsh --help"
	}
	msg, hint = terminal.CleanLines(fault.Message(err)), terminal.Clean(fault.Remedy(err))
	if hint == "" {
		hint = "if it happens again, show this message to an administrator"
	}
	if isFault && f.ID != "" && f.Kind == fault.Internal {
		msg += " (error id " + terminal.Clean(f.ID) + ")"
	}
	return msg, hint
}
