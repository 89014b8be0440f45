package sshd

import (
	"fmt"
	"sync"
	"time"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/access"
	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
	"github.com/threshold-access/threshold/internal/sshprofile"
)

// stopNotice is what clients with a terminal read when the server begins to drain.
const stopNotice = "threshold: this node is about to stop: finish your work and log out"

// warning returns the line that clients with a terminal read before a limit ends the connection. left is the
// time until then.
func (e *endReason) warning(left time.Duration, origin Origin) string {
	condition, advice := "", ""
	switch e.cause {
	case causeIdle:
		condition = " unless something is typed"
	case causeCertificate:
		condition, advice = " with its certificate", ": log in again, and connect again"
		if origin.Features.Has(dial.CertificateUpdates) {
			advice = ": it goes on if you run tsh login before, where you started it"
		}
	}
	in := access.Duration(left.Round(time.Second))
	return fmt.Sprintf("threshold: this session ends in %s%s (%s)%s", in, condition, e.rule, advice)
}

// faultObject returns err in the form that tsh reads: see dial.Faults.
func faultObject(err error) []byte {
	return fault.MarshalObject(fault.WithoutCause(err), dial.MaxFaultBytes)
}

// bannerError wraps err in an error that an authentication callback returns: the client is refused, and shows
// or reads err.
func (o Origin) bannerError(err error) error {
	if o.readsFaults() {
		return &ssh.BannerError{Err: err, Message: string(faultObject(err))}
	}
	return sshprofile.Banner(err)
}

// rejectionText returns the description in the rejection of a channel (RFC 4254 section 5.1): for tsh a
// fault, for other clients the text of err, with its remedy, without control characters.
func (c *connection) rejectionText(err error) string {
	if c.origin.readsFaults() {
		return string(faultObject(err))
	}
	text := sshprofile.Clean(fault.Message(err))
	if remedy := fault.Remedy(err); remedy != "" {
		text += " (" + sshprofile.Clean(remedy) + ")"
	}
	return text
}

// malformedFault returns the fault for a request with a payload that does not parse.
func malformedFault(requestType string, err error) error {
	return sshRequestMalformed.Wrap(err, "node", fault.Args{"request": requestType})
}

// printable returns a string that the client chose, for use in a message or the log: at most 64 characters,
// and a question mark in place of each character that is not printable ASCII.
func printable(s string) string {
	const limit = 64
	out := []rune{}
	for _, char := range s {
		if len(out) == limit {
			return string(out) + "…"
		}
		if char < ' ' || char > '~' {
			char = '?'
		}
		out = append(out, char)
	}
	return string(out)
}

// messageWriter writes the node's own messages to a session channel, on stderr, beside the output of a
// program.
//
// A message must not be written after CloseWrite: x/crypto forbids it and does not prevent it. outputMu
// prevents it. A client that reads nothing may block a write for as long as the connection lasts. So messages
// are written on goroutines of pending, and what must not be delayed only tries outputMu.
type messageWriter struct {
	ch      ssh.Channel
	pending *sync.WaitGroup // of the session channel
	// readsFaults says that the client also gets a fault as dial.ProgramFault.
	readsFaults bool
	// rawTerminal says that the client's terminal is in raw mode, where a line needs a carriage return. It is
	// set before a program starts and does not change after that.
	rawTerminal bool
	// explained says that a refusal was explained: only the first refusal on a channel is. It belongs to the
	// goroutine of the session channel.
	explained bool

	announceMu   sync.Mutex // held from the call of announce until the line is written; only tried
	outputMu     sync.Mutex // held during a write, and by closeOutput; guards outputClosed
	outputClosed bool
}

// explain writes the reason of a refusal, unless a refusal was explained before. In either case it then calls
// next, if that is not nil. Both happen on a goroutine of pending: explain does not wait. It is called by the
// goroutine of the session channel. next says that no program runs, so tsh gets the reason as a fault too.
func (w *messageWriter) explain(err error, next func()) {
	first := !w.explained
	w.explained = true
	text := sshprofile.Message(err, w.lineEnd())
	w.pending.Go(func() {
		if next != nil {
			w.sendFault(err)
		}
		if first {
			w.write(text)
		}
		if next != nil {
			next()
		}
	})
}

// sendFault sends tsh why the program was refused or ended. It does not wait until the client has read
// something: a request needs no room in the channel's window.
func (w *messageWriter) sendFault(err error) {
	if w.readsFaults {
		_, _ = w.ch.SendRequest(dial.ProgramFault, false, faultObject(err))
	}
}

// announce writes a line of its own on the terminal, on a goroutine of pending. It does not wait. If the last
// line that was announced is still being written, because the client reads no output, it drops the new one.
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

// writeEndReason writes why the node ended the program, and returns when that is written. It does not take
// outputMu, which another message may hold for as long as the client reads nothing. That is safe because its
// caller is also the only caller of closeOutput, afterwards: the output cannot be closed meanwhile.
func (w *messageWriter) writeEndReason(reason *endReason) {
	w.sendFault(reason.err)
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

// closeOutput sends EOF on the channel, after which nothing is written. While a message is still being
// written it does nothing, because that write may never end. The client learns of the end from the close of
// the channel, which comes next (RFC 4254 section 5.3).
func (w *messageWriter) closeOutput() {
	if w.outputMu.TryLock() {
		w.outputClosed = true
		_ = w.ch.CloseWrite()
		w.outputMu.Unlock()
	}
}

// lineEnd returns the end of a line.
func (w *messageWriter) lineEnd() string {
	if w.rawTerminal {
		return "\r\n"
	}
	return "\n"
}

// lineStart returns what begins a line of its own. On a terminal, other output may stand before the cursor.
func (w *messageWriter) lineStart() string {
	if w.rawTerminal {
		return "\r\n"
	}
	return ""
}
