package sshd

import (
	"fmt"
	"time"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/sshprofile"
)

// stopNotice is what clients with a terminal read when the server begins to drain.
const stopNotice = "threshold: this node is about to stop: finish your work and log out"

// warning is what clients with a terminal read before a limit ends the connection, with the time that is left.
func (e *endReason) warning(left time.Duration) string {
	condition := ""
	switch e.cause {
	case causeIdle:
		condition = " unless something is typed"
	case causeCertificate:
		condition = " with its certificate"
	}
	return fmt.Sprintf("threshold: this session ends in %s%s (%s)", left.Round(time.Second), condition, e.rule)
}

// rejectionText is the description in the rejection of a channel, and the reply that tsh reads with a refused
// global request.
func rejectionText(err error) string {
	text := sshprofile.Clean(fault.Message(err))
	if remedy := fault.Remedy(err); remedy != "" {
		text += " (" + sshprofile.Clean(remedy) + ")"
	}
	return text
}

// malformed is the error for a payload that does not parse.
func malformed(requestType string, err error) error {
	msg := "the request " + requestType + " could not be read"
	return fault.Wrap(err, fault.Invalid, "node", msg, "update the SSH client")
}

// printable shortens a string that the client chose and replaces what is not printable ASCII.
func printable(s string) string {
	const limit = 64
	out := []rune{}
	for _, r := range s {
		if len(out) == limit {
			return string(out) + "…"
		}
		if r < ' ' || r > '~' {
			r = '?'
		}
		out = append(out, r)
	}
	return string(out)
}
