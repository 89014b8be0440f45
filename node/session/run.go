package session

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/threshold-access/threshold/node/pty"
)

const (
	// hangupGrace is how long programs have between SIGHUP and SIGKILL.
	hangupGrace = 3 * time.Second
	// drainGrace is how long a terminal may stay silent after its program has ended, while others still hold
	// it open.
	drainGrace = 200 * time.Millisecond
	// copyBytes is the size of copy buffers; they are pooled.
	copyBytes      = 32 << 10
	smallCopyBytes = 4 << 10
)

// Streams are where a program's bytes come from and go to.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Run moves bytes until the program has ended and all of its output is delivered, or until ctx ends: then the
// program and everything in its process group is hung up, and killed if it stays. Whoever reads from In must
// be let go by the caller afterwards; its reader is the only goroutine that may outlive Run.
func (p *Process) Run(ctx context.Context, s Streams) Exit {
	go p.copyInput(s.In)
	var outputs sync.WaitGroup
	outputs.Go(func() {
		if len(p.greeting) > 0 {
			_, _ = s.Out.Write(
				p.greeting,
			) // the first write of the program's own finds out if nobody takes it
		}
		p.copyOutput(&buffers, p.stdout, s.Out)
	})
	if p.stderr != nil {
		outputs.Go(func() { p.copyOutput(&smallBuffers, p.stderr, s.Err) })
	}
	drained := make(chan struct{})
	go func() { outputs.Wait(); close(drained) }()

	select {
	case <-p.exited:
		if p.terminal != nil {
			_ = p.stdout.SetReadDeadline(
				time.Now().Add(drainGrace),
			) // what still holds the terminal gets no longer
		}
		select {
		case <-drained:
		case <-ctx.Done():
		}
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		p.terminate()
	}
	p.closeStreams()
	<-drained
	<-p.exited
	return exitStatus(p.reap(), p.in.Load(), p.out.Load())
}

// reap lets the program's number go; no signal is sent to it after.
func (p *Process) reap() *os.ProcessState {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped = true
	_ = p.cmd.Wait() // how it ended is in the state
	return p.cmd.ProcessState
}

// copyInput gives the program its input. The end of input closes its stdin; a terminal gets its end-of-input
// character.
func (p *Process) copyInput(in io.Reader) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, err := io.CopyBuffer(countingWriter{p.stdin, &p.in}, struct{ io.Reader }{in}, *buf)
	if p.terminal == nil {
		_ = p.stdin.Close()
		return
	}
	if err == nil {
		if c := p.terminal.EndOfInput(); c != 0 {
			_, _ = p.stdin.Write([]byte{c}) // the program may have gone
		}
	}
}

// copyOutput delivers output until there is no more. A read deadline is set once the program is gone; it
// counts silence, not time.
func (p *Process) copyOutput(pool *sync.Pool, from *os.File, to io.Writer) {
	buf := pool.Get().(*[]byte)
	defer pool.Put(buf)
	silent := false
	for {
		n, err := from.Read(*buf)
		if n > 0 {
			silent = false
			p.out.Add(int64(n))
			if _, werr := to.Write((*buf)[:n]); werr != nil {
				p.discard(from, *buf)
				return
			}
		}
		switch {
		case errors.Is(err, os.ErrDeadlineExceeded):
			if silent {
				return
			}
			silent = true
		case err != nil:
			return // EOF, or EIO from a terminal that nobody has open
		}
		if p.terminal != nil && p.hasExited() {
			_ = from.SetReadDeadline(time.Now().Add(drainGrace))
		}
	}
}

// discard keeps a program from blocking on output that nobody takes any more.
func (p *Process) discard(from *os.File, buf []byte) {
	for {
		if _, err := from.Read(buf); err != nil {
			return
		}
	}
}

func (p *Process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// terminate hangs up on the process group, and kills all of it if the program stays. Where it goes, what it
// left behind that ignores the hangup stays, as with OpenSSH's sshd: an editor's server that was started with
// nohup is still there after a lost connection.
func (p *Process) terminate() {
	_ = p.kill(syscall.SIGHUP)
	p.closeTerminal()
	timer := time.NewTimer(hangupGrace)
	defer timer.Stop()
	select {
	case <-p.exited:
	case <-timer.C:
		_ = p.kill(syscall.SIGKILL)
		<-p.exited
	}
}

// Resize tells the program of a new window. Without a terminal it does nothing.
func (p *Process) Resize(s pty.Size) error {
	if p.terminal == nil {
		return nil
	}
	return p.terminal.Resize(s)
}

// errNoTerminal says that something was asked of a terminal where there is none.
var errNoTerminal = errors.New("the session has no terminal")

// Break sends a break to the terminal.
func (p *Process) Break() error {
	if p.terminal == nil {
		return errNoTerminal
	}
	return p.terminal.Break()
}

// closeTerminal frees the seat in the machine's records, and closes the terminal only then: the next session
// may get the same one.
func (p *Process) closeTerminal() {
	if p.terminal == nil {
		return
	}
	p.closeOnce.Do(func() {
		pid := 0
		if p.cmd.Process != nil {
			pid = p.cmd.Process.Pid
		}
		if p.utmp != nil {
			_ = p.utmp.recordLogout(pid) // as in greet
		}
	})
	p.terminal.Close()
}

func (p *Process) closeStreams() {
	p.closeTerminal()
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

var (
	buffers      = sync.Pool{New: func() any { b := make([]byte, copyBytes); return &b }}
	smallBuffers = sync.Pool{
		New: func() any { b := make([]byte, smallCopyBytes); return &b },
	} // of stderr, where little comes
)

type countingWriter struct {
	w io.Writer
	n *atomic.Int64
}

func (c countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n.Add(int64(n))
	return n, err
}
