package tsh

import (
	"encoding/binary"
	"errors"
	"io"
	"sync"

	"golang.org/x/crypto/ssh"

	"github.com/threshold-access/threshold/internal/dial"
	"github.com/threshold-access/threshold/internal/fault"
)

// remote is a session on a node, with a program in it.
type remote struct {
	ssh.Channel
	closed chan struct{} // once the node has closed the channel
	end    programExit   // set before closed is
}

// programExit is how a program ended, as the node tells (RFC 4254 section 6.10). The zero value: it told
// nothing.
type programExit struct {
	received bool
	status   uint32
	signal   string
}

// openSession opens a session and asks for a program in it. To a node of ours all of it goes in the message
// that opens the channel, which saves a round trip; a refusal then comes as words and a status, as from a
// program. Details want no answer either way.
func openSession(c *ssh.Client, details []dial.ChannelRequest, program dial.ChannelRequest) (*remote, error) {
	extra, fits := dial.MarshalEarlyRequests(append(details, program))
	atOnce := fits && dial.ReadsEarlyRequests(c.ServerVersion())
	if !atOnce {
		extra = nil
	}
	ch, reqs, err := c.OpenChannel("session", extra)
	if err != nil {
		return nil, channelRefused(err, "the node opens no session")
	}
	r := &remote{Channel: ch, closed: make(chan struct{})}
	go r.readRequests(reqs) // ends with the connection
	if atOnce {
		return r, nil
	}
	for _, d := range details {
		_, _ = ch.SendRequest(d.Type, false, d.Payload) // a lost connection shows in the next one
	}
	granted, err := ch.SendRequest(program.Type, true, program.Payload)
	if err == nil && !granted {
		err = errRequestDenied
	}
	return r, err
}

// errRequestDenied is a refusal of which the node says more on the channel.
var errRequestDenied = errors.New("the node does not run it")

// input is the program's, for those who end it by Close.
type input struct{ *remote }

func (i input) Close() error { return i.CloseWrite() }

// readRequests takes in what the node says about the program.
func (r *remote) readRequests(reqs <-chan *ssh.Request) {
	defer close(r.closed)
	for q := range reqs {
		switch q.Type {
		case "exit-status":
			if len(q.Payload) == 4 {
				r.end = programExit{received: true, status: binary.BigEndian.Uint32(q.Payload)}
			}
		case "exit-signal":
			var m struct {
				Name       string
				CoreDumped bool
				Message    string
				Language   string
			}
			if ssh.Unmarshal(q.Payload, &m) == nil {
				r.end = programExit{received: true, signal: m.Name}
			}
		}
		_ = q.Reply(false, nil) // where one is wanted, it is a sign of life
	}
}

// copyOut writes what the program says until the channel is closed and all is written, and returns how it
// ended. An output that takes nothing more ends the session.
func (r *remote) copyOut(stdout, stderr io.Writer) (programExit, error) {
	var both sync.WaitGroup
	var errOut, errErr error
	write := func(to io.Writer, from io.Reader, failed *error) {
		if _, *failed = io.Copy(to, from); *failed != nil {
			_ = r.Close()
			_, _ = io.Copy(io.Discard, from) // else the other output would not come to its end
		}
	}
	both.Go(func() { write(stdout, r.Channel, &errOut) })
	both.Go(func() { write(stderr, r.Stderr(), &errErr) })
	both.Wait()
	<-r.closed
	if err := errors.Join(errOut, errErr); err != nil {
		return r.end, fault.Wrap(
			err,
			fault.Internal,
			"",
			"what the program says cannot be written: "+fault.DescribeNetwork(err),
			"look at where standard output leads",
		)
	}
	return r.end, nil
}

// result turns the end of a program into tsh's: its status, or 128 and the number of the signal that ended
// it.
func (e programExit) result() error {
	switch {
	case !e.received:
		return fault.New(
			fault.Unavailable,
			"",
			"the connection to the node was lost",
			"connect again; if it was cut on purpose, tsh status says what you may still do",
		)
	case e.signal != "":
		return exitStatus(128 + signalNumber(e.signal))
	case e.status == 0:
		return nil
	}
	return exitStatus(min(e.status, exitConnect)) // a process has 8 bits; what is more must not become 0
}

// hintAskForRole is what to do where a node refuses without saying what.
const hintAskForRole = "ask an administrator whether your roles allow it; after a change of roles run: tsh login"

// channelRefused words a refusal of a channel. A node says why in it.
func channelRefused(err error, what string) error {
	var open *ssh.OpenChannelError
	hint := hintAskForRole
	if errors.As(err, &open) && open.Message != "" {
		why, remedy := fault.SplitLine(clean(open.Message))
		what += ": " + why
		if remedy != "" {
			hint = remedy
		}
	}
	return fault.Wrap(err, fault.Denied, "", what, hint)
}

// Programs that a session can run.
func shell() dial.ChannelRequest { return dial.ChannelRequest{Type: "shell"} }

func execRequest(command string) dial.ChannelRequest {
	return dial.ChannelRequest{Type: "exec", Payload: ssh.Marshal(struct{ Command string }{command})}
}

func subsystem(name string) dial.ChannelRequest {
	return dial.ChannelRequest{Type: "subsystem", Payload: ssh.Marshal(struct{ Name string }{name})}
}

// What follows goes along while the program runs.
func (r *remote) resize(width, height int) {
	_, _ = r.SendRequest(
		"window-change",
		false,
		ssh.Marshal(struct{ Columns, Rows, Width, Height uint32 }{uint32(width), uint32(height), 0, 0}),
	)
}

func (r *remote) signal(s ssh.Signal) {
	_, _ = r.SendRequest("signal", false, ssh.Marshal(struct{ Name string }{string(s)}))
}
