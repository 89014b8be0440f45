package process

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
	// drainGrace is how long a terminal may stay silent after its program has exited, while others still hold
	// it open.
	drainGrace = 200 * time.Millisecond
	// copyBytes and smallCopyBytes are the sizes of copy buffers, which are pooled.
	copyBytes      = 32 << 10
	smallCopyBytes = 4 << 10
)

// Streams are where a program's input comes from and its output goes to. Err is not used with a terminal.
type Streams struct {
	In       io.Reader
	Out, Err io.Writer
}

// Run copies input and output until the program has exited and all of its output is delivered, or until ctx
// ends. When ctx ends, the program's process group gets SIGHUP, and after hangupGrace also SIGKILL if the
// program has not exited. In any case Run then reaps the program, closes the streams and returns how the
// program ended.
//
// The goroutine that reads from In is the only one that may outlive Run. It ends when its pending read does,
// so the caller must then close In or otherwise end that read.
func (p *Process) Run(ctx context.Context, streams Streams) Exit {
	go p.copyInput(streams.In)
	var outputs sync.WaitGroup
	outputs.Go(func() {
		if len(p.greeting) > 0 {
			// If this fails, the first write of the program's output fails too.
			_, _ = streams.Out.Write(p.greeting)
		}
		p.copyOutput(&buffers, p.stdout, streams.Out)
	})
	if p.stderr != nil {
		outputs.Go(func() { p.copyOutput(&smallBuffers, p.stderr, streams.Err) })
	}
	drained := make(chan struct{}) // closed when all output is delivered
	go func() { outputs.Wait(); close(drained) }()

	select {
	case <-p.exited:
		if p.terminal != nil {
			// A process that the program left behind may hold the terminal open forever. Output is delivered
			// until the terminal has been silent for drainGrace.
			_ = p.stdout.SetReadDeadline(time.Now().Add(drainGrace))
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
	p.closeStreams() // ends the goroutines that copy output
	<-drained
	<-p.exited
	return exitStatus(p.reap(), p.in.Load(), p.out.Load())
}

// reap collects the exit status of the program, which has exited, and so releases its process id. From then
// on no signal is sent to that id. It returns nil if there is no status.
func (p *Process) reap() *os.ProcessState {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.reaped = true
	_ = p.cmd.Wait() // the state says how the program ended
	return p.cmd.ProcessState
}

// copyInput copies input to the program until the input or the program ends. It then closes the program's
// stdin. With a terminal, which cannot be half closed, it sends the terminal's end-of-file character instead
// if the terminal is in line mode.
func (p *Process) copyInput(in io.Reader) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	// The wrapper hides WriteTo of the input, which would allocate a buffer of its own.
	_, err := io.CopyBuffer(countingWriter{p.stdin, &p.in}, struct{ io.Reader }{in}, *buf)
	if p.terminal == nil {
		_ = p.stdin.Close()
		return
	}
	if err == nil {
		if c := p.terminal.EndOfInput(); c != 0 {
			_, _ = p.stdin.Write([]byte{c}) // the program may have exited
		}
	}
}

// copyOutput copies the program's output from src to dst, the client, until no program has src open any more
// or src is closed. If the client takes no more output, it reads on and discards it.
//
// A terminal may stay open for longer than its program runs. Once the program has exited, Run sets a read
// deadline, and copyOutput sets it again after each read, so that it measures silence. The terminal is
// silent, and copyOutput returns, when two deadlines have passed in a row without output between them.
func (p *Process) copyOutput(pool *sync.Pool, src *os.File, dst io.Writer) {
	buf := pool.Get().(*[]byte)
	defer pool.Put(buf)
	silent := false // the last deadline has passed without output since
	for {
		n, err := src.Read(*buf)
		if n > 0 {
			silent = false
			p.out.Add(int64(n))
			if _, writeErr := dst.Write((*buf)[:n]); writeErr != nil {
				p.discardOutput(src, *buf)
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
			_ = src.SetReadDeadline(time.Now().Add(drainGrace))
		}
	}
}

// discardOutput reads output and drops it until the stream ends, so that the program does not block.
func (p *Process) discardOutput(src *os.File, buf []byte) {
	for {
		if _, err := src.Read(buf); err != nil {
			return
		}
	}
}

// hasExited reports whether the program has exited.
func (p *Process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// terminate sends SIGHUP to the process group and closes the terminal. It sends SIGKILL to the group if the
// program has not exited after hangupGrace. It returns once the program has exited. Other processes of the
// group that ignore SIGHUP stay if the program exits in time, as with OpenSSH's sshd: an editor's server that
// was started with nohup survives a lost connection.
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

// Resize tells the program of a new window size. Without a terminal it does nothing.
func (p *Process) Resize(s pty.Size) error {
	if p.terminal == nil {
		return nil
	}
	return p.terminal.Resize(s)
}

var errNoTerminal = errors.New("the session has no terminal")

// Break sends a break to the terminal (RFC 4335).
func (p *Process) Break() error {
	if p.terminal == nil {
		return errNoTerminal
	}
	return p.terminal.Break()
}

// closeTerminal records the end of the login, once, and then closes the terminal. The order matters: as soon
// as the terminal is closed, the next session may get the same one, and its record must not be overwritten.
// It may be called more than once.
func (p *Process) closeTerminal() {
	if p.terminal == nil {
		return
	}
	p.closeOnce.Do(func() {
		pid := 0
		if p.cmd.Process != nil {
			pid = p.cmd.Process.Pid
		}
		if p.record != nil {
			_ = p.record.files.RecordLogout(p.record.entry, pid)
		}
	})
	p.terminal.Close()
}

// closeStreams closes this process's ends of the streams. It may be called more than once.
func (p *Process) closeStreams() {
	p.closeTerminal()
	for _, f := range []*os.File{p.stdin, p.stdout, p.stderr} {
		if f != nil {
			_ = f.Close()
		}
	}
}

var (
	buffers = sync.Pool{New: func() any { b := make([]byte, copyBytes); return &b }}
	// smallBuffers are for stderr, to which programs write little.
	smallBuffers = sync.Pool{New: func() any { b := make([]byte, smallCopyBytes); return &b }}
)

// countingWriter adds the bytes that it writes to n.
type countingWriter struct {
	w io.Writer
	n *atomic.Int64
}

func (c countingWriter) Write(b []byte) (int, error) {
	n, err := c.w.Write(b)
	c.n.Add(int64(n))
	return n, err
}
