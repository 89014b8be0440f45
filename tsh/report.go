package tsh

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/output"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// exitStatus is an error that ends tsh with this code and prints nothing: what there is to say has been
// printed, as by the remote command.
type exitStatus int

func (s exitStatus) Error() string { return fmt.Sprintf("exit status %d", int(s)) }

// exitSSHError is the exit code of "tsh ssh" and "tsh proxy ssh" after an error of tsh itself, as of ssh(1):
// remote commands seldom end with this status, so a script can distinguish the two.
const exitSSHError = 255

// report prints an error of cmd and what to do about it: as one JSON object in one line if the output was to
// be JSON, else as text.
func (a *app) report(cmd *cobra.Command, err error) {
	f := describeError(err)
	if wantsJSON(cmd, a.Args) {
		_, _ = fmt.Fprintf(a.Stderr, "%s\n", fault.MarshalObject(f, maxErrorBytes))
		return
	}
	msg := f.Msg
	if f.ID != "" && f.Kind == fault.Internal {
		msg += " (error id " + f.ID + ")"
	}
	fmt.Fprintf(a.Stderr, "tsh: error: %s\n", msg)
	fmt.Fprintf(a.Stderr, "tsh: hint: %s\n", f.Remedy)
}

// maxErrorBytes bounds an error that is printed as JSON. It has room for every fault.
const maxErrorBytes = 1 << 20

// wantsJSON reports whether cmd was called with --format=json. args are those of tsh: after an error in an
// earlier flag cobra has not read the others.
func wantsJSON(cmd *cobra.Command, args []string) bool {
	flag := cmd.Flags().Lookup("format")
	switch {
	case flag == nil:
		return false
	case flag.Changed:
		return flag.Value.String() == string(output.JSON)
	}
	for i, arg := range args {
		value, ok := strings.CutPrefix(arg, "--format=")
		if arg == "--format" && i+1 < len(args) {
			value, ok = args[i+1], true
		}
		if ok {
			return value == string(output.JSON)
		}
	}
	return false
}

var interrupted = fault.Code{
	Name:   "command-interrupted",
	Kind:   fault.Unavailable,
	Text:   "interrupted",
	Remedy: "run the command again when you are ready",
}

// describeError returns what tsh prints of an error: a fault with a message and a remedy, both safe to print
// and neither empty. An interruption, cobra's error for an unknown command and a fault without a remedy get a
// remedy here.
func describeError(err error) *fault.Error {
	if errors.Is(err, context.Canceled) {
		return interrupted.New("")
	}
	var f *fault.Error
	isFault := errors.As(err, &f)
	// cobra's error for an unknown command is "unknown command …", then an empty line and "Did you mean
	// this?" with one similar command a line, if there are any.
	firstPart, suggestions, _ := strings.Cut(err.Error(), "\n\n")
	if !isFault && strings.HasPrefix(firstPart, "unknown command") {
		hint := "see: tsh --help"
		similar := strings.Fields(strings.TrimPrefix(suggestions, "Did you mean this?"))
		if len(similar) > 0 {
			hint = "did you mean: tsh " + terminal.Clean(strings.Join(similar, ", or tsh "))
		}
		return usageInvalid.New("", fault.Args{"why": terminal.Clean(firstPart), "hint": hint})
	}
	out := fault.Error{Kind: fault.Internal, Msg: err.Error()}
	if isFault {
		out = *f
	}
	out.Op, out.Err = "", nil
	out.Msg, out.Remedy = terminal.CleanLines(out.Msg), terminal.Clean(out.Remedy)
	if out.Remedy == "" {
		out.Remedy = "if it happens again, show this message to an administrator"
	}
	out.ID = terminal.Clean(out.ID)
	return &out
}
