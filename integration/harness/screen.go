package harness

import (
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// Screen is the output of a terminal, which a test waits for.
type Screen struct {
	t testing.TB

	mu   sync.Mutex // guards text
	text strings.Builder

	more chan struct{} // holds one signal: there is new text
	done chan struct{} // closed when the terminal has ended
}

// Watch starts a goroutine that reads r, the output of a terminal, into a Screen. It ends when reading fails,
// as it does when the terminal is closed.
func Watch(t testing.TB, r io.Reader) *Screen {
	s := &Screen{t: t, more: make(chan struct{}, 1), done: make(chan struct{})}
	go func() {
		defer close(s.done)
		buf := make([]byte, 4096)
		for {
			n, err := r.Read(buf)
			s.mu.Lock()
			s.text.Write(buf[:n])
			s.mu.Unlock()
			select {
			case s.more <- struct{}{}:
			default:
			}
			if err != nil {
				return
			}
		}
	}()
	return s
}

// Text is everything that was printed so far.
func (s *Screen) Text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// Wait waits until the text has been printed. It fails the test after Timeout, or when the terminal ends
// before.
func (s *Screen) Wait(text string) {
	s.t.Helper()
	deadline := time.After(Timeout)
	for !strings.Contains(s.Text(), text) {
		select {
		case <-s.more:
		case <-s.done:
			if !strings.Contains(s.Text(), text) {
				s.t.Fatalf("the terminal ended without %q:\n%s", text, s.Text())
			}
		case <-deadline:
			s.t.Fatalf("the terminal did not show %q:\n%s", text, s.Text())
		}
	}
}
