package sshclient

import (
	"errors"
	"strings"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/tsh/terminal"
)

// HintAskForRole is the hint for a refusal of a node that has none.
const HintAskForRole = "ask an administrator whether your roles allow it; " +
	"after a change of roles run: tsh login"

// Refusal is what a node says when it refuses something. All texts are safe to print.
type Refusal struct {
	Why  string // what the node says, or that it says nothing; never empty
	Hint string // what to do, marked as the node's advice; empty: it gives none
	// Err is the node's fault, or else the error that Refusal was made of.
	Err error
}

// ReadRefusal reads a message of a node, as dial.Faults lists them. A Threshold node sends a fault. From
// other servers the lines of the text are joined by semicolons. err is what the message belongs to.
func ReadRefusal(message string, err error) Refusal {
	if f, ok := fault.ParseObject([]byte(message)); ok {
		r := Refusal{Why: oneLine(f.Msg), Err: f}
		if f.Remedy != "" {
			// A hostile node must not give advice in tsh's name.
			r.Hint = "the node says: " + terminal.Clean(f.Remedy)
		}
		return r
	}
	r := Refusal{Why: oneLine(message), Err: err}
	if r.Why == "" {
		r.Why = "the node gave no reason"
	}
	return r
}

// oneLine joins the lines of a text by semicolons, cleaned. It leaves out empty ones.
func oneLine(text string) string {
	var lines []string
	for line := range strings.SplitSeq(terminal.CleanLines(text), "\n") {
		if line = strings.TrimSpace(line); line != "" {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}

// ChannelRefusal reads err, the error of a node that did not open a channel.
func ChannelRefusal(err error) Refusal {
	var refusal *ssh.OpenChannelError
	if errors.As(err, &refusal) {
		return ReadRefusal(refusal.Message, err)
	}
	return Refusal{Why: fault.DescribeNetwork(err), Err: err}
}

// HintOr returns the node's hint, or own if it gave none.
func (r Refusal) HintOr(own string) string {
	if r.Hint == "" {
		return own
	}
	return r.Hint
}
