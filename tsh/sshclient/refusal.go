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

// ParseRefusal reads the reason and the hint from a message of a node. A Threshold node sends the lines
// "threshold: error: …" and "threshold: hint: …". Any other line counts as a reason, and several reasons are
// joined by semicolons. Both results are safe to print; each is empty if the message has none.
func ParseRefusal(text string) (reason, hint string) {
	var reasons []string
	for line := range strings.SplitSeq(terminal.CleanLines(text), "\n") {
		line = strings.TrimPrefix(strings.TrimSpace(line), "threshold: ")
		if remedy, ok := strings.CutPrefix(line, "hint: "); ok {
			hint = remedy
		} else if line != "" {
			reasons = append(reasons, strings.TrimPrefix(line, "error: "))
		}
	}
	return strings.Join(reasons, "; "), hint
}

// attributeHint marks a node's hint as the node's, so that a hostile node cannot give advice in tsh's name.
// It returns own if the node gave no hint.
func attributeHint(nodeHint, own string) string {
	if nodeHint == "" {
		return own
	}
	return "the node says: " + nodeHint
}

// ChannelRefusedFault returns a Denied fault for err, the error of a node that refuses to open a channel. msg
// is the beginning of the message. If the node gave a reason, it is appended to msg; if it gave a hint, that
// is the hint, else HintAskForRole.
func ChannelRefusedFault(err error, msg string) error {
	var refusal *ssh.OpenChannelError
	hint := HintAskForRole
	if errors.As(err, &refusal) && refusal.Message != "" {
		reason, nodeHint := fault.SplitLine(terminal.Clean(refusal.Message))
		msg += ": " + reason
		if nodeHint != "" {
			hint = nodeHint
		}
	}
	return fault.Wrap(err, fault.Denied, "", msg, hint)
}
