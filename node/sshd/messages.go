package sshd

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/sshprofile"
)

// stopNotice is what clients with a terminal read when the server begins to drain.
const stopNotice = "threshold: this node is about to stop: finish your work and log out"

// warning is what clients with a terminal read before a limit ends the connection, with the time that is
// left.
func (e *endReason) warning(left time.Duration) string {
	condition := ""
	switch e.cause {
	case causeIdle:
		condition = " unless something is typed"
	case causeCertificate:
		condition = " with its certificate"
	}
	in := left.Round(time.Second)
	return fmt.Sprintf("threshold: this session ends in %s%s (%s)", in, condition, e.rule)
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

// messageWriter writes the node's own messages to a session channel, on stderr, beside the output of a
// program.
//
// x/crypto allows no write after CloseWrite and leaves it to its callers to keep the two apart; outputMu
// does. A client that reads nothing may block a write for as long as the connection lasts. So messages are
// written on goroutines of pending, and nothing that has to happen waits for outputMu.
type messageWriter struct {
	ch      ssh.Channel
	pending *sync.WaitGroup // of the session channel
	// rawTerminal says that the client's terminal is in raw mode, where a line needs a carriage return. It is
	// set before a program starts and does not change after that.
	rawTerminal bool
	// explained says that a refusal was explained already, which happens once. It belongs to the goroutine of
	// the session channel.
	explained bool

	announceMu   sync.Mutex // held from the call of announce until the line is written; only tried
	outputMu     sync.Mutex // held during a write, and by closeOutput; guards outputClosed
	outputClosed bool
}

// explain writes a refusal, unless one was explained before, and then calls then, which may be nil. It does
// not wait for either.
func (w *messageWriter) explain(err error, then func()) {
	first := !w.explained
	w.explained = true
	text := sshprofile.Message(err, w.lineEnd())
	w.pending.Go(func() {
		if first {
			w.write(text)
		}
		if then != nil {
			then()
		}
	})
}

// announce writes a line of its own on the terminal. It drops the line if the one before is not written yet,
// because the client reads no output. It does not wait.
func (w *messageWriter) announce(line string) {
	if !w.announceMu.TryLock() {
		return
	}
	text := w.lineStart() + sshprofile.Clean(line) + w.lineEnd()
	w.pending.Go(func() {
		defer w.announceMu.Unlock()
		w.write(text)
	})
}

// writeEndReason writes why the node ended the program. It is called by the goroutine that closes the output
// after it, so it needs no lock: with one it could wait for a message that the client does not read.
func (w *messageWriter) writeEndReason(reason *endReason) {
	text := w.lineStart() + sshprofile.Message(reason.err, w.lineEnd())
	_, _ = w.ch.Stderr().Write([]byte(text))
}

// write writes to stderr, unless the output is closed.
func (w *messageWriter) write(text string) {
	w.outputMu.Lock()
	defer w.outputMu.Unlock()
	if !w.outputClosed {
		_, _ = w.ch.Stderr().Write([]byte(text))
	}
}

// closeOutput sends EOF on the channel. It does nothing while a message is still being written: that may take
// for ever, and the close of the channel, which comes next, tells the client the same (RFC 4254 section 5.3).
func (w *messageWriter) closeOutput() {
	if w.outputMu.TryLock() {
		w.outputClosed = true
		_ = w.ch.CloseWrite()
		w.outputMu.Unlock()
	}
}

// lineEnd ends a line.
func (w *messageWriter) lineEnd() string {
	if w.rawTerminal {
		return "\r\n"
	}
	return "\n"
}

// lineStart begins a line of its own: on a terminal the cursor may stand behind other output.
func (w *messageWriter) lineStart() string {
	if w.rawTerminal {
		return "\r\n"
	}
	return ""
}
