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

// Timeout is how long a story waits for something that should happen at once.
const Timeout = 60 * time.Second

// Process is a program of ours that runs beside the story.
type Process struct {
	Cmd          *exec.Cmd
	t            testing.TB
	mu           sync.Mutex
	out          bytes.Buffer // guarded by mu
	printed      chan struct{}
	outputClosed chan struct{} // closed after the last output
	done         chan struct{}
	err          error // set before done is closed
}

// Start runs a program until the story ends. What it printed is shown if the story fails.
func Start(t testing.TB, env []string, name string, args ...string) *Process {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Env = append(os.Environ(), env...)
	return StartCmd(t, cmd)
}

// StartCmd is Start for a command made elsewhere.
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
	cmd.SysProcAttr.Pdeathsig = syscall.SIGKILL // a run that is killed leaves nothing behind
	if err := cmd.Start(); err != nil {
		t.Fatalf("start %s: %v", cmd.Path, err)
	}
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

// Output is everything printed so far.
func (p *Process) Output() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.out.String()
}

// Line waits for a line that begins with prefix and returns the rest of it.
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

func (p *Process) wait(what string, there func() bool) {
	p.t.Helper()
	late := time.After(Timeout)
	for !there() {
		select {
		case <-p.printed:
		case <-p.outputClosed:
			if !there() {
				p.t.Fatalf("%s ended (%v) before it printed %q:\n%s", p.Cmd.Path, p.Wait(), what, p.Output())
			}
		case <-late:
			p.t.Fatalf("%s did not print %q:\n%s", p.Cmd.Path, what, p.Output())
		}
	}
}

// Stop asks the process to end, as Ctrl-C would, and waits. It returns how it ended.
func (p *Process) Stop() error { return p.end(os.Interrupt) }

// Kill ends the process as a power cut would: nothing gets to run.
func (p *Process) Kill() { _ = p.end(syscall.SIGKILL) }

func (p *Process) end(sig os.Signal) error {
	if err := p.Cmd.Process.Signal(sig); err != nil && !errors.Is(err, os.ErrProcessDone) {
		p.t.Logf("signal %s: %v", p.Cmd.Path, err)
	}
	return p.Wait()
}

// Done is closed once the process has ended.
func (p *Process) Done() <-chan struct{} { return p.done }

// Wait waits for the process to end by itself; one that does not is killed and fails the story.
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

// Result is how a command that ran to its end went.
type Result struct {
	Stdout, Stderr string
	Code           int
}

// Run runs a command to its end with the given standard input.
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

// OK fails the story unless the command ended with 0, and returns its standard output.
func (r Result) OK(t testing.TB) string {
	t.Helper()
	if r.Code != 0 {
		t.Fatalf("got exit status %d, want 0\nstdout: %s\nstderr: %s", r.Code, r.Stdout, r.Stderr)
	}
	return r.Stdout
}

// Refused fails the story unless the command failed with an error that has all the parts, and a hint.
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
