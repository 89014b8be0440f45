package harness

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Timeout is how long a test waits for something that should happen at once.
const Timeout = 60 * time.Second

// Process is a program that runs beside the test. One goroutine collects its output and another waits for its
// end.
type Process struct {
	Cmd *exec.Cmd
	t   testing.TB

	mu  sync.Mutex   // guards out
	out bytes.Buffer // standard output and standard error

	printed      chan struct{} // holds one signal: there is new output
	outputClosed chan struct{} // closed after the last output
	done         chan struct{} // closed when the process has ended
	err          error         // of Cmd.Wait; set before done is closed
}

// Start starts a program with further environment variables in env. When the test ends, the program is
// interrupted, and if the test has failed, its output is logged.
func Start(t testing.TB, env []string, name string, args ...string) *Process {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	return StartCmd(t, cmd)
}

// StartCmd is Start for a prepared command. It sets the command's standard output and standard error, and
// makes the kernel kill the process when the test process dies.
func StartCmd(t testing.TB, cmd *exec.Cmd) *Process {
	t.Helper()
	p := &Process{
		Cmd:          cmd,
		t:            t,
		printed:      make(chan struct{}, 1),
		outputClosed: make(chan struct{}),
		done:         make(chan struct{}),
	}
	r, w := io.Pipe()
	cmd.Stdout, cmd.Stderr = w, w
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = &syscall.SysProcAttr{}
	}
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // sent when the test process dies, so nothing is left running
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
	// Both goroutines end when the process has ended: Cleanup stops it.
	go p.collect(r)
	go func() {
		p.err = cmd.Wait()
		w.Close()
		close(p.done)
	}()
	t.Cleanup(func() {
		p.Stop()
		if t.Failed() {
			t.Logf("%s printed:\n%s", strings.Join(cmd.Args, " "), p.Output())
		}
	})
	return p
}

// collect reads the output line by line, until the process has ended.
func (p *Process) collect(r io.Reader) {
	defer close(p.outputClosed)
	lines := bufio.NewReader(r)
	for {
		line, err := lines.ReadString('\n')
		p.mu.Lock()
		p.out.WriteString(line)
		p.mu.Unlock()
		select {
		case p.printed <- struct{}{}:
		default:
		}
		if err != nil {
			return
		}
	}
}

// Output is everything that was printed so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Line waits for a line that begins with prefix, and returns the rest of it.
func (p *Process) Line(prefix string) (rest string) {
	p.t.Helper()
	p.wait(prefix, func() bool {
		for line := range strings.Lines(p.Output()) {
			if after, ok := strings.CutPrefix(line, prefix); ok && strings.HasSuffix(line, "\n") {
				rest = strings.TrimSpace(after)
				return true
			}
		}
		return false
	})
	return rest
}

// WaitFor waits until the text has been printed.
func (p *Process) WaitFor(text string) {
	p.t.Helper()
	p.wait(text, func() bool { return strings.Contains(p.Output(), text) })
}

// wait waits until isFound returns true, and calls it again after each output. It fails the test after
// Timeout, or if the process ends before. what is the awaited text, for the message.
func (p *Process) wait(what string, isFound func() bool) {
	p.t.Helper()
	deadline := time.After(Timeout)
	for !isFound() {
		select {
		case <-p.printed:
		case <-p.outputClosed:
			if !isFound() { // the last output may have come after the first check
				p.t.Fatalf("%s ended (%v) before it printed %q:\n%s", p.Cmd.Path, p.Wait(), what, p.Output())
			}
		case <-deadline:
			p.t.Fatalf("%s did not print %q:\n%s", p.Cmd.Path, what, p.Output())
		}
	}
}

// Stop interrupts the process, as Ctrl-C would, and waits for its end. It returns the error of Cmd.Wait.
func (p *Process) Stop() error { return p.end(os.Interrupt) }

// Kill kills the process, so that no code of it runs any more.
func (p *Process) Kill() { _ = p.end(syscall.SIGKILL) }

// end sends the signal and waits for the end of the process. It returns the error of Cmd.Wait.
func (p *Process) end(sig os.Signal) error {
	if err := p.Cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Logf("signal %s: %v", p.Cmd.Path, err)
	}
	return p.Wait()
}

// Done returns a channel that is closed when the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the process to end by itself, and returns the error of Cmd.Wait: nil for exit status 0.
// After Timeout it kills the process and fails the test.
func (p *Process) Wait() error {
	select {
	case <-p.done:
	case <-time.After(Timeout):
		p.t.Errorf("%s did not end", p.Cmd.Path)
		_ = p.Cmd.Process.Kill()
		<-p.done
	}
	return p.err
}

// Result is the result of a command that ran to its end.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a command to its end, with further environment variables in env and with the standard input stdin,
// or an empty one if stdin is nil. It returns the result, whatever the exit status is. It kills the command
// after twice Timeout.
func Run(t testing.TB, env []string, stdin io.Reader, name string, args ...string) Result {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*Timeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), env...)
	cmd.Stdin = stdin
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatalf("run %s: %v", name, err)
	}
	return Result{Stdout: stdout.String(), Stderr: stderr.String(), Code: cmd.ProcessState.ExitCode()}
}

// OK returns the standard output. It fails the test unless the exit status is 0.
func (r Result) OK(t testing.TB) string {
	t.Helper()
	if r.Code != 0 {
		t.Fatalf("got exit status %d, want 0\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Refused fails the test unless the command failed and its standard error contains all the parts and a hint
// of tsh.
func (r Result) Refused(t testing.TB, parts ...string) {
	t.Helper()
	if r.Code == 0 {
		t.Fatalf("got exit status 0, want a refusal\nstdout: %s\nstderr: %s", r.Stdout, r.Stderr)
	}
	for _, part := range append(parts, "tsh: hint: ") {
		if !strings.Contains(r.Stderr, part) {
			t.Errorf("got stderr %q, want %q in it", r.Stderr, part)
		}
	}
}

// Eventually calls condition every 20 ms until it returns true. It fails the test after Timeout. what
// describes the condition, for the message.
func Eventually(t testing.TB, what string, condition func() bool) {
	t.Helper()
	tick := time.NewTicker(20 * time.Millisecond)
	defer tick.Stop()
	for deadline := time.Now().Add(Timeout); time.Now().Before(deadline); <-tick.C {
		if condition() {
			return
		}
	}
	t.Fatalf("not within %v: %s", Timeout, what)
}
