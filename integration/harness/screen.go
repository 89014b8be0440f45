package harness

import (
	"io"
	"strings"
	"sync"
	"testing"
	"time"
)

// Screen is what a terminal has shown.
type Screen struct {
	t    testing.TB
	mu   sync.Mutex
	text strings.Builder // guarded by mu
	more chan struct{}
	done chan struct{}
}

// Watch reads a terminal until it ends.
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

// Text is everything shown so far.
func (s *Screen) Text() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.text.String()
}

// Wait waits until the text has been shown.
func (s *Screen) Wait(text string) {
	s.t.Helper()
	late := time.After(Timeout)
	for !strings.Contains(s.Text(), text) {
		select {
		case <-s.more:
		case <-s.done:
			if !strings.Contains(s.Text(), text) {
				s.t.Fatalf("the terminal ended without %q:\n%s", text, s.Text())
			}
		case <-late:
			s.t.Fatalf("the terminal did not show %q:\n%s", text, s.Text())
		}
	}
}
