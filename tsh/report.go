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
	var f *fault.Error
	if unknown, similar, _ := strings.Cut(err.Error(), "\n\n"); !errors.As(err, &f) &&
		strings.HasPrefix(unknown, "unknown command") {
		if similar = strings.Join(strings.Fields(strings.TrimPrefix(similar, "Did you mean this?")), ", or tsh "); similar != "" {
			return clean(unknown), "did you mean: tsh " + clean(similar)
		}
		return clean(unknown), "see: tsh --help"
	}
	msg, hint = cleanLines(fault.Message(err)), clean(fault.Remedy(err))
	if hint == "" {
		hint = "if it stays so, show this message to an administrator"
	}
	if errors.As(err, &f) && f.ID != "" && f.Kind == fault.Internal {
		msg += " (error id " + clean(f.ID) + ")"
	}
	return msg, hint
}
