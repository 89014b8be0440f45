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

// ParseRefusal reads the reason and the hint from a message of a node. Its lines are "threshold: error: …"
// and "threshold: hint: …"; other lines count as reasons. Both results are safe to print.
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

// ChannelRefusedFault is the error of a node that refuses to open a channel. what describes the channel; the
// node's reason and hint are appended if it gave them.
func ChannelRefusedFault(err error, what string) error {
	var open *ssh.OpenChannelError
	hint := HintAskForRole
	if errors.As(err, &open) && open.Message != "" {
		reason, remedy := fault.SplitLine(terminal.Clean(open.Message))
		what += ": " + reason
		if remedy != "" {
			hint = remedy
		}
	}
	return fault.Wrap(err, fault.Denied, "", what, hint)
}
