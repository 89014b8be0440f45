package mux

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// pair returns both ends of a session over a pipe without buffers.
func pair(t testing.TB, near, far Config) (*Session, *Session) {
	a, b := net.Pipe()
	near.Dialer, far.Dialer = true, false
	dialer, acceptor := New(a, withBounds(near)), New(b, withBounds(far))
	t.Cleanup(func() { dialer.Close(); acceptor.Close() })
	return dialer, acceptor
}

func withBounds(c Config) Config {
	if c.MaxStreams == 0 {
		c.MaxStreams = 4096
	}
	if c.Timeout == 0 {
		c.Timeout = 25 * time.Second
	}
	return c
}

// openPair opens a stream at from and accepts it at to.
func openPair(t testing.TB, from, to *Session) (near, far *Stream) {
	t.Helper()
	near, err := from.Open()
	if err != nil {
		t.Fatal(err)
	}
	if far, err = to.Accept(context.Background()); err != nil {
		t.Fatal(err)
	}
	return near, far
}

func TestDataAndHalfCloseArriveInOrder(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dialer, acceptor := pair(t, Config{}, Config{})
		near, far := openPair(t, dialer, acceptor)
		sent := make([]byte, 3<<20) // more than the largest window
		for i := range sent {
			sent[i] = byte(i * 7 >> 3)
		}
		go func() { near.Write(sent); near.CloseWrite() }()
		got, err := io.ReadAll(far)
		if err != nil || !bytes.Equal(got, sent) {
			t.Fatalf("got %d bytes, %v; want the %d sent", len(got), err, len(sent))
		}
		if _, err := far.Write([]byte("answer")); err != nil {
			t.Fatal(err)
		}
		far.Close()
		if got, err := io.ReadAll(near); string(got) != "answer" || err != nil {
			t.Fatalf("got %q, %v", got, err)
		}
		synctest.Wait()
		if a, b := dialer.Streams(), acceptor.Streams(); a+b != 0 {
			t.Errorf("%d and %d streams are left", a, b)
		}
		if g := acceptor.growth; g != 0 {
			t.Errorf("growth of %d bytes is left", g)
		}
	})
}

func TestUnreadStreamTakesOneInitialWindow(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dialer, acceptor := pair(t, Config{}, Config{})
		near, far := openPair(t, dialer, acceptor)
		_ = near.SetWriteDeadline(time.Now().Add(time.Second))
		n, err := near.Write(make([]byte, 1<<20))
		if n != InitialWindow || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("wrote %d, %v; want %d and a passed deadline", n, err, InitialWindow)
		}
		other, otherFar := openPair(t, acceptor, dialer) // is not blocked
		go other.Write([]byte("x"))
		if _, err := io.ReadFull(otherFar, make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		_ = far.SetReadDeadline(time.Now().Add(time.Second))
		if got, err := io.ReadAll(far); len(got) != n || !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("read %d, %v", len(got), err)
		}
	})
}

func TestCloseWakesBothEnds(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dialer, acceptor := pair(t, Config{}, Config{})
		near, _ := openPair(t, dialer, acceptor)
		results := make(chan error, 2)
		go func() { _, err := near.Read(make([]byte, 1)); results <- err }()
		unread, writer := openPair(t, dialer, acceptor)
		go func() { _, err := writer.Write(make([]byte, 1<<20)); results <- err }()
		synctest.Wait()
		near.Close()
		unread.Close()
		a, b := <-results, <-results
		if errors.Is(a, syscall.EPIPE) {
			a, b = b, a
		}
		if !errors.Is(a, net.ErrClosed) || !errors.Is(b, syscall.EPIPE) {
			t.Fatalf("got %v and %v", a, b)
		}
	})
}

func TestFurtherStreamOfPeerIsRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dialer, acceptor := pair(t, Config{}, Config{PeerTotal: 1})
		openPair(t, dialer, acceptor)
		second, err := dialer.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err = second.Read(make([]byte, 1)); err != error(ResetError{Refused}) {
			t.Fatalf("got %v, want a refusal", err)
		}
		if acceptor.Err() != nil || acceptor.Streams() != 1 {
			t.Errorf("the session: %v, %d streams", acceptor.Err(), acceptor.Streams())
		}
	})
}

func TestKeepAlive(t *testing.T) {
	t.Parallel()
	for name, answers := range map[string]bool{"a peer that answers": true, "a silent peer": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				s := New(a, withBounds(Config{KeepAlive: 25 * time.Second}))
				defer s.Close()
				if answers {
					defer New(b, withBounds(Config{Dialer: true})).Close()
				} else {
					go io.Copy(io.Discard, b)
					defer b.Close()
				}
				timeout := time.After(51 * time.Second)
				select {
				case <-s.Done():
					if answers {
						t.Fatal(s.Err())
					}
				case <-timeout:
					if !answers {
						t.Fatal("the session lives after 51 s")
					}
				}
			})
		})
	}
}

// openFrame begins the first stream of the end that dialed.
var openFrame = frame{kind: kindOpen, stream: 1}.append(nil)

// dataFrame has n bytes of that stream.
func dataFrame(n uint32) []byte {
	return append(frame{kind: kindData, stream: 1, value: n}.append(nil), make([]byte, n)...)
}

// repeat joins n frames.
func repeat(n int, f func(i uint32) frame) (b []byte) {
	for i := range n {
		b = f(uint32(i)).append(b)
	}
	return b
}

func join(parts ...[]byte) []byte { return bytes.Join(parts, nil) }

// TestHostilePeers sends raw frames to a session, which must end, say why, and keep nothing.
func TestHostilePeers(t *testing.T) {
	t.Parallel()
	ping := func(i uint32) frame { return frame{kind: kindPing, value: i} }
	widen := func(uint32) frame { return frame{kind: kindWindow, stream: 1, value: maxCredit} }
	end := frame{kind: kindClose, flags: flagEnd, stream: 1}.append(nil)
	for name, tt := range map[string]struct {
		sent []byte
		says string // in the error of the session
	}{
		"data beyond the window": {
			join(openFrame, dataFrame(InitialWindow), dataFrame(1)),
			"more on stream 1"},
		"data for a stream not known": {dataFrame(1), "stream 1, which nobody has opened"},
		"data after the end":          {join(openFrame, end, dataFrame(1)), "more on stream 1"},
		"a huge length": {
			join(openFrame, frame{kind: kindData, stream: 1, value: 1 << 31}.append(nil)), "malformed"},
		"a huge window":             {join(openFrame, repeat(1, widen)), "lets stream 1 send more"},
		"a stream opened twice":     {join(openFrame, openFrame), "out of order"},
		"a stream of our numbers":   {frame{kind: kindOpen, stream: 2}.append(nil), "out of order"},
		"a reset of an unknown one": {frame{kind: kindReset, stream: 3}.append(nil), "nobody has opened"},
		"a kind that must be known": {frame{kind: kindPong + 1}.append(nil), "of kind 8, this program reads"},
		"the last such kind":        {frame{kind: firstIgnorable - 1}.append(nil), "of kind 127, this program"},
		"a huge frame to skip":      {frame{kind: firstIgnorable, value: 1 << 31}.append(nil), "malformed"},
		"a flood of pings":          {repeat(maxPings+1, ping), "pings more than 32 times"},
		"opens whose refusals it does not read": {
			repeat(20_000, func(i uint32) frame { return frame{kind: kindOpen, stream: 2*i + 1} }),
			"does not read"},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			synctest.Test(t, func(t *testing.T) {
				a, b := net.Pipe()
				s := New(a, withBounds(Config{}))
				defer s.Close()
				go func() { b.Write(tt.sent) }()
				<-s.Done()
				if !strings.Contains(s.Err().Error(), tt.says) {
					t.Errorf("got %q, want it to say %q", s.Err(), tt.says)
				}
				if s.Streams() != 0 {
					t.Errorf("%d streams are left", s.Streams())
				}
				if _, err := s.Open(); err == nil {
					t.Error("an ended session opens streams")
				}
			})
		})
	}
}

// TestFramesOfALaterVersionAreSkipped shows that work goes on after frames of kinds that are not known, with
// and without bytes.
func TestFramesOfALaterVersionAreSkipped(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := New(a, withBounds(Config{}))
		defer s.Close()
		later := frame{kind: firstIgnorable, flags: 7, stream: 1, value: maxPayload}.append(nil)
		empty := frame{kind: 0xff}.append(nil)
		go b.Write(join(openFrame, empty, later, make([]byte, maxPayload), dataFrame(5)))
		st, err := s.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(st, make([]byte, 5)); err != nil || s.Err() != nil {
			t.Errorf("got %v, the session %v; want 5 bytes", err, s.Err())
		}
	})
}

// TestPeersMayPingAgainAfterAPeriod shows that the count of pings begins anew.
func TestPeersMayPingAgainAfterAPeriod(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := New(a, withBounds(Config{}))
		defer s.Close()
		go io.Copy(io.Discard, b)
		pings := repeat(maxPings, func(i uint32) frame { return frame{kind: kindPing, value: i} })
		for range 3 {
			if _, err := b.Write(pings); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
			if err := s.Err(); err != nil {
				t.Fatalf("got %v, want the session to go on", err)
			}
			<-time.After(pingPeriod + time.Millisecond)
		}
		go b.Write(append(pings, pings...))
		<-s.Done()
	})
}

// TestTurnsOfWriters shows who writes next while the connection takes one frame after another: frames without
// data, then the control stream, then the other streams in turns.
func TestTurnsOfWriters(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		a, b := net.Pipe()
		s := New(a, withBounds(Config{Dialer: true}))
		defer s.Close()
		next := func() frame {
			var h [headerBytes]byte
			if _, err := io.ReadFull(b, h[:]); err != nil {
				t.Fatal(err)
			}
			f, err := parseFrame(h)
			if err != nil {
				t.Fatal(err)
			}
			_, _ = io.CopyN(io.Discard, b, int64(f.bodyBytes()))
			return f
		}
		open := func() *Stream {
			st, err := s.Open()
			if err != nil || next().kind != kindOpen {
				t.Fatal("no stream was opened")
			}
			return st
		}
		control := open()
		for _, bulk := range []*Stream{open(), open(), open()} {
			b.Write(frame{kind: kindWindow, stream: bulk.id, value: MaxWindow}.append(nil))
			go bulk.Write(make([]byte, 3*maxPayload))
			synctest.Wait()
		}
		go control.Write([]byte("rules"))
		b.Write(frame{kind: kindPing, value: 9}.append(nil))
		synctest.Wait()
		var got []uint32
		for range 11 {
			got = append(got, next().stream)
		}
		// the first frame was under way when the ping and the control stream came
		if want := []uint32{3, 0, 1, 5, 7, 3, 5, 7, 3, 5, 7}; !slices.Equal(got, want) {
			t.Errorf("got frames of the streams %v, want %v", got, want)
		}
	})
}

// buffered is how many bytes s keeps that were received and not read.
func buffered(s *Session) (n int) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, st := range s.streams {
		for _, c := range st.received {
			n += len(c.b)
		}
	}
	return n
}

// TestResetFreesMemoryAtOnce shows that nobody has to read or close a stream that was reset.
func TestResetFreesMemoryAtOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dialer, acceptor := pair(t, Config{}, Config{})
		near, far := openPair(t, dialer, acceptor)
		go near.Write(make([]byte, 4<<20))
		if _, err := io.ReadFull(far, make([]byte, 2<<20)); err != nil { // so that the window grows
			t.Fatal(err)
		}
		synctest.Wait()
		if n := buffered(acceptor); n < MaxWindow/2 || acceptor.growth == 0 {
			t.Fatalf("got %d bytes buffered and a growth of %d", n, acceptor.growth)
		}
		near.Reset(Canceled)
		synctest.Wait()
		if len(far.received)+acceptor.growth+acceptor.Streams() != 0 {
			t.Errorf("%d chunks, a growth of %d and %d streams are left",
				len(far.received), acceptor.growth, acceptor.Streams())
		}
	})
}

// TestWindowsOfASessionAreBounded reads many streams until their windows could be at their largest, and then
// no more. All get what they send, and what is buffered has a bound.
func TestWindowsOfASessionAreBounded(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		const streams = 2 * maxGrowth / MaxWindow
		dialer, acceptor := pair(t, Config{}, Config{})
		for range streams {
			near, far := openPair(t, dialer, acceptor)
			go near.Write(make([]byte, 8<<20))
			if _, err := io.CopyN(io.Discard, far, 2<<20); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		n, bound := buffered(acceptor), maxGrowth+streams*(InitialWindow+largeChunk)
		if acceptor.growth > maxGrowth || n < maxGrowth/2 || n > bound {
			t.Errorf("got a growth of %d and %d bytes buffered, want at most %d", acceptor.growth, n, bound)
		}
	})
}

// TestStreamsBeyondTheBoundAreRefused shows that a peer with another bound keeps its session.
func TestStreamsBeyondTheBoundAreRefused(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dialer, acceptor := pair(t, Config{}, Config{MaxStreams: 2})
		first, _ := openPair(t, dialer, acceptor)
		openPair(t, dialer, acceptor)
		third, err := dialer.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := third.Read(make([]byte, 1)); err != error(ResetError{Refused}) {
			t.Errorf("got %v, want a refusal", err)
		}
		if _, err := acceptor.Open(); err == nil {
			t.Error("got one more stream at the end with the bound")
		}
		first.Close()
		openPair(t, dialer, acceptor) // there is room again
	})
}

// TestFloodOfOpensAndResets shows that a reset frees a stream at once, and that honest work goes on.
func TestFloodOfOpensAndResets(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dialer, acceptor := pair(t, Config{}, Config{MaxStreams: 4})
		for range 1000 {
			near, far := openPair(t, dialer, acceptor)
			near.Write(make([]byte, 100))
			near.Reset(Canceled)
			if _, err := io.ReadAll(far); err != error(ResetError{Canceled}) {
				t.Fatalf("got %v", err)
			}
			if acceptor.Streams() != 0 {
				t.Fatal("a reset stream is left")
			}
		}
	})
}

// TestRandomSequences runs many streams with random writes, closes and resets, and compares what arrives with
// what was sent: all of it after a close, the beginning of it after a reset.
func TestRandomSequences(t *testing.T) {
	t.Parallel()
	for seed := range uint64(20) {
		synctest.Test(t, func(t *testing.T) {
			dialer, acceptor := pair(t, Config{}, Config{})
			random := rand.New(rand.NewPCG(seed, 8))
			var all sync.WaitGroup
			for range 30 {
				near, far := openPair(t, dialer, acceptor)
				if random.IntN(2) == 0 {
					near, far = far, near
				}
				sent := make([]byte, random.IntN(200_000))
				for i := range sent {
					sent[i] = byte(random.Uint32())
				}
				piece, resets, abandons := 1+random.IntN(40_000), random.IntN(4) == 0, random.IntN(4) == 0
				all.Go(func() {
					for b := range slices.Chunk(sent, piece) {
						if _, err := near.Write(b); err != nil && !abandons {
							t.Error(err)
						}
					}
					if resets {
						near.Reset(Canceled)
					} else {
						near.Close()
					}
				})
				all.Go(func() {
					defer far.Close()
					var limit int64 = 1 << 30
					if abandons {
						limit = int64(len(sent) / 2)
					}
					got, err := io.ReadAll(io.LimitReader(far, limit))
					whole := !resets && !abandons
					if !bytes.HasPrefix(sent, got) || whole && (len(got) != len(sent) || err != nil) {
						t.Errorf("seed %d: got %d of %d bytes, %v", seed, len(got), len(sent), err)
					}
				})
			}
			all.Wait()
			synctest.Wait()
			if a, b := dialer.Streams(), acceptor.Streams(); a+b != 0 {
				t.Errorf("seed %d: %d and %d streams are left", seed, a, b)
			}
			if err := errors.Join(dialer.Err(), acceptor.Err()); err != nil {
				t.Errorf("seed %d: %v", seed, err)
			}
		})
	}
}

// TestGoldenFramesAreRead reads a frame of each kind, as the first release writes them, and writes it again.
func TestGoldenFramesAreRead(t *testing.T) {
	t.Parallel()
	golden, err := os.ReadFile("testdata/frames.txt")
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]frame{
		"open":       {kind: kindOpen, stream: 3},
		"data":       {kind: kindData, stream: 3, value: 5},
		"window":     {kind: kindWindow, stream: 3, value: InitialWindow},
		"close-end":  {kind: kindClose, flags: flagEnd, stream: 3},
		"close-stop": {kind: kindClose, flags: flagStop, stream: 3},
		"close-both": {kind: kindClose, flags: flagEnd | flagStop, stream: 3},
		"reset":      {kind: kindReset, stream: 3, value: uint32(Refused)},
		"ping":       {kind: kindPing, value: 42},
		"pong":       {kind: kindPong, value: 42},
		"ignorable":  {kind: firstIgnorable, flags: 0xff, stream: 3, value: 3},
	}
	for line := range strings.Lines(string(golden)) {
		fields := strings.Fields(line)
		b, err := hex.DecodeString(strings.Join(fields[1:], ""))
		if err != nil {
			t.Fatal(err)
		}
		f, err := parseFrame([headerBytes]byte(b))
		if err != nil || f != want[fields[0]] || f.bodyBytes() != len(b)-headerBytes {
			t.Errorf("%s: got %+v, %v, want %+v", fields[0], f, err, want[fields[0]])
		}
		if again := f.append(nil); !bytes.Equal(again, b[:headerBytes]) {
			t.Errorf("%s: got it written as %x, want %x", fields[0], again, b[:headerBytes])
		}
		delete(want, fields[0])
	}
	if len(want) > 0 {
		t.Errorf("the golden file has no %v", want)
	}
}

// FuzzParseFrame shows that each frame has one encoding.
func FuzzParseFrame(f *testing.F) {
	f.Add(frame{kind: kindData, stream: 1, value: 5}.append(nil))
	f.Add(frame{kind: kindClose, flags: flagEnd, stream: 1}.append(nil))
	f.Add(frame{kind: firstIgnorable, flags: 3, value: maxPayload}.append(nil))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) != headerBytes {
			return
		}
		got, err := parseFrame([headerBytes]byte(b))
		if err == nil && (!bytes.Equal(got.append(nil), b) || got.bodyBytes() > maxPayload) {
			t.Errorf("%x is read as %+v", b, got)
		}
	})
}

// FuzzSession sends any bytes to a session, which must not panic nor keep a stream.
func FuzzSession(f *testing.F) {
	f.Add(join(openFrame, dataFrame(3)))
	f.Add(join(openFrame, frame{kind: firstIgnorable, value: 2}.append(nil), []byte("xx"), dataFrame(1)))
	f.Fuzz(func(t *testing.T, sent []byte) {
		a, b := net.Pipe()
		s := New(a, withBounds(Config{PeerTotal: 2}))
		go io.Copy(io.Discard, b)
		b.Write(sent)
		b.Close()
		s.Close()
		if s.Streams() != 0 {
			t.Errorf("%d streams are left", s.Streams())
		}
	})
}

// A session may end while a frame of data is half received. The chunk to which it is written still belongs to
// its stream: nobody else may get it while the stream's owner can read what came before.
func TestAHalfReceivedFrameIsFreedOnce(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		near, peer := net.Pipe()
		s := New(near, withBounds(Config{}))
		defer peer.Close()
		raw := frame{kind: kindOpen, stream: 1}.append(nil)
		raw = append(frame{kind: kindData, stream: 1, value: 4}.append(raw), "came"...)
		raw = append(frame{kind: kindData, stream: 1, value: 9}.append(raw), "half"...)
		if _, err := peer.Write(raw); err != nil {
			t.Fatal(err)
		}
		st, err := s.Accept(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		s.Close()
		s.mu.Lock()
		kept := len(st.received)
		if kept == 1 && (st.received[0].w != 4 || st.filling != nil) {
			t.Errorf("got %+v, want a chunk with 4 bytes", st.received[0])
		}
		s.mu.Unlock()
		if kept != 1 {
			t.Fatalf("got %d chunks, want the one that was being filled", kept)
		}
		// The next streams of any session take their chunks from the pool.
		for range 64 {
			if newChunk(1) == st.received[0] {
				t.Fatal("the chunk was given to another stream while its own can read it")
			}
		}
		if got, err := io.ReadAll(st); string(got) != "came" || err == nil {
			t.Errorf("got %q and %v, want what came whole, and why no more does", got, err)
		}
	})
}

// A stream whose peer has ended it is whole, also when the session ends before it is read.
func TestAnEndedStreamIsReadToItsEndAfterTheSession(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		dialer, acceptor := pair(t, Config{}, Config{})
		near, far := openPair(t, dialer, acceptor)
		if _, err := near.Write([]byte("whole")); err != nil {
			t.Fatal(err)
		}
		if err := near.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		dialer.Close()
		synctest.Wait()
		if got, err := io.ReadAll(far); string(got) != "whole" || err != nil {
			t.Errorf("got %q and %v, want the whole stream", got, err)
		}
	})
}
