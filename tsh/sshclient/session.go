package sshclient

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
)

// Session is a session channel on a node, with its program.
type Session struct {
	ssh.Channel
	closed chan struct{} // closed by readRequests once the node has closed the channel
	exit   Exit          // may be read once closed is closed
	fault  string        // the payload of dial.ProgramFault; may be read once closed is closed
}

// Exit is how a program ended, as the node reports it (RFC 4254 section 6.10). The zero value means that the
// node reported nothing.
type Exit struct {
	Received bool
	Status   uint32
	Signal   string // not empty: the signal that ended the program, without SIG
}

// ProgramRefusedError is the error of OpenSession if the node opened the channel but did not start the
// program. The node may give the reason on the standard error of Session. Who gets the error must close
// Session, as CopyReason does.
type ProgramRefusedError struct {
	Session *Session // runs no program
	Err     error    // of the request
}

func (e *ProgramRefusedError) Error() string { return e.Err.Error() }

func (e *ProgramRefusedError) Unwrap() error { return e.Err }

// OpenSession opens a session channel and requests a program in it. requests, such as pty-req and env, are
// sent before the request for the program; no reply to them is awaited. It returns the session of the
// program. If the node does not open the channel, it returns a Denied fault with the node's reason.
//
// A node with the feature dial.EarlyRequests reads all requests from the message that opens the channel,
// which saves a round trip. A refusal of such a node looks like a program: text on standard error and an exit
// status. Another server gets each request in a message of its own; if it refuses the program, OpenSession
// returns a ProgramRefusedError.
func (c *Client) OpenSession(requests []dial.ChannelRequest, program dial.ChannelRequest) (*Session, error) {
	extra, fits := dial.MarshalEarlyRequests(append(requests, program))
	early := fits && c.Features().Has(dial.EarlyRequests)
	if !early {
		extra = nil
	}
	ch, reqs, err := c.OpenChannel("session", extra)
	if err != nil {
		refusal := ChannelRefusal(err)
		return nil, sessionRefused.Wrap(refusal.Err, "", fault.Args{
			"why":  refusal.Why,
			"hint": refusal.HintOr(HintAskForRole),
		})
	}
	s := &Session{Channel: ch, closed: make(chan struct{})}
	go s.readRequests(reqs) // ends with the connection
	if early {
		return s, nil
	}
	for _, request := range requests {
		// An error is ignored: it means that the connection is lost, and the request for the program reports
		// that.
		_, _ = ch.SendRequest(request.Type, false, request.Payload)
	}
	const wantReply = true
	granted, err := ch.SendRequest(program.Type, wantReply, program.Payload)
	if err == nil && !granted {
		err = errRequestDenied
	}
	if err != nil {
		return nil, &ProgramRefusedError{Session: s, Err: err}
	}
	return s, nil
}

// errRequestDenied is the answer of a node that refuses the request for a program.
var errRequestDenied = errors.New("the node refused to run the command")

// readRequests reads the node's requests on the channel until the channel is closed. It stores how the
// program ended in s.exit. It answers "failure" to every request that wants a reply: such a request is the
// node's keepalive, for which any answer will do.
func (s *Session) readRequests(reqs <-chan *ssh.Request) {
	defer close(s.closed)
	for request := range reqs {
		switch request.Type {
		case "exit-status":
			if len(request.Payload) == 4 {
				s.exit = Exit{Received: true, Status: binary.BigEndian.Uint32(request.Payload)}
			}
		case dial.ProgramFault:
			s.fault = string(request.Payload[:min(len(request.Payload), MaxMessage)])
		case "exit-signal":
			var signal struct {
				Name       string
				CoreDumped bool
				Message    string
				Language   string
			}
			if ssh.Unmarshal(request.Payload, &signal) == nil {
				s.exit = Exit{Received: true, Signal: signal.Name}
			}
		}
		_ = request.Reply(false, nil) // does nothing if no reply is wanted
	}
}

// CopyReason closes a session whose program the node refused, and copies the node's standard error, which may
// have the reason, to w until the node closes the channel too.
func (s *Session) CopyReason(w io.Writer) {
	_ = s.CloseWrite()
	_ = s.Close()
	_, _ = s.CopyOutput(io.Discard, w)
}

// CopyOutput copies the program's standard output and standard error until the node has closed the channel,
// and returns how the program ended: the zero Exit if the node did not report it. If stdout or stderr cannot
// be written, CopyOutput ends the session and returns an Internal fault.
func (s *Session) CopyOutput(stdout, stderr io.Writer) (Exit, error) {
	copyOne := func(to io.Writer, from io.Reader) error {
		_, err := io.Copy(to, from)
		if err != nil {
			_ = s.Close()
			// Both outputs share the channel's window: unread data of this one would block the other.
			_, _ = io.Copy(io.Discard, from)
		}
		return err
	}
	var both sync.WaitGroup
	var stdoutErr, stderrErr error
	both.Go(func() { stdoutErr = copyOne(stdout, s.Channel) })
	both.Go(func() { stderrErr = copyOne(stderr, s.Stderr()) })
	both.Wait()
	<-s.closed // from here on s.exit may be read
	if err := errors.Join(stdoutErr, stderrErr); err != nil {
		return s.exit, remoteOutputUnwritable.Wrap(err, "", fault.Args{"why": fault.DescribeNetwork(err)})
	}
	return s.exit, nil
}

// Refusal returns why the node refused or ended the program, of which err is the error. It closes the session
// and waits until the node has closed it too. A server that is not ours may write the reason to standard
// error, which must not have been read.
func (s *Session) Refusal(err error) Refusal {
	_ = s.Close()
	text, _ := io.ReadAll(io.LimitReader(s.Stderr(), MaxMessage)) // it ends when the node closes the channel
	_, _ = io.Copy(io.Discard, s.Stderr())
	<-s.closed
	if s.fault != "" {
		return ReadRefusal(s.fault, err)
	}
	return ReadRefusal(string(text), err)
}

// Resize reports a new size of the local terminal (RFC 4254 section 6.7).
func (s *Session) Resize(columns, rows int) {
	size := struct{ Columns, Rows, Width, Height uint32 }{uint32(columns), uint32(rows), 0, 0}
	_, _ = s.SendRequest("window-change", false, ssh.Marshal(size))
}

// Signal sends the program a signal (RFC 4254 section 6.9).
func (s *Session) Signal(name ssh.Signal) {
	_, _ = s.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{string(name)}))
}
