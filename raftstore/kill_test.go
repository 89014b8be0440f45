package raftstore_test

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"testing"
	"time"

	"github.com/hashicorp/raft"
	"go.uber.org/goleak"

	"github.com/threshold-access/threshold/raftstore"
	"github.com/threshold-access/threshold/raftstore/raftstoretest"
)

// killDirEnv names a data folder. When it is set, this binary is the writer that TestKill kills.
const killDirEnv = "RAFTSTORE_KILL_DIR"

const killWriters = 4

func TestMain(m *testing.M) {
	if dir := os.Getenv(killDirEnv); dir != "" {
		if err := writeUntilKilled(dir); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		return
	}
	goleak.VerifyTestMain(m, goleak.IgnoreAnyFunction(raftstoretest.UnansweredFuture))
}

// writeUntilKilled opens the store and prints the number that each writer finds ("have W N"). Then it
// writes, and prints what was acknowledged ("ack W N").
func writeUntilKilled(dir string) error {
	cfg := raftstoretest.Config(dir)
	cfg.Bounds = raftstore.Bounds{
		LogSegmentBytes:  64 << 10,
		StreamSegment:    64 << 10,
		SnapshotEntries:  50,
		TrailingEntries:  10,
		SnapshotInterval: 10 * time.Millisecond,
	}
	s, err := raftstore.New(cfg)
	if err != nil {
		return err
	}
	ctx := context.Background()
	ended := make(chan error, 1)
	go func() { ended <- s.Run(ctx) }()
	if err := s.Ready(ctx); err != nil {
		return fmt.Errorf("%w; Run: %w", err, <-ended)
	}
	var have [killWriters]int
	for w := range have {
		if have[w], err = lastNumber(ctx, s, w); err != nil {
			return err
		}
		fmt.Printf("have %d %d\n", w, have[w])
	}
	var all sync.WaitGroup
	for w := range have {
		all.Go(func() {
			for n := have[w] + 1; ; n++ {
				if _, err := s.Commit(ctx, numberedTxn(w, n)); err != nil {
					fmt.Fprintln(os.Stderr, err)
					return
				}
				fmt.Printf("ack %d %d\n", w, n)
			}
		})
	}
	all.Wait()
	return <-ended
}

// numberedTxn is a transaction that writes n to the writer's key and appends it, as record n, to the writer's
// stream.
func numberedTxn(w, n int) raftstore.Txn {
	data := make([]byte, 500)
	copy(data, strconv.Itoa(n))
	return raftstore.Txn{
		Then:   []raftstore.Write{raftstore.Put(fmt.Sprint("w", w), []byte(strconv.Itoa(n)))},
		Append: []raftstore.Append{{Stream: fmt.Sprint("s/", w), Records: [][]byte{data}}},
	}
}

// lastNumber returns the writer's number, after checking that its stream ends with it.
func lastNumber(ctx context.Context, s *raftstore.Store, w int) (int, error) {
	it, _ := s.Get(ctx, fmt.Sprint("w", w)) // absent: 0
	n, _ := strconv.Atoi(string(it.Value))
	recs, err := s.Read(ctx, fmt.Sprint("s/", w), uint64(max(n, 1)), 10)
	if err != nil {
		return 0, err
	}
	if n > 0 && (len(recs) != 1 || string(recs[0].Data[:len(it.Value)]) != string(it.Value)) ||
		n == 0 && len(recs) != 0 {
		return 0, fmt.Errorf("writer %d: the key says %d, the stream has %d records from it", w, n, len(recs))
	}
	return n, nil
}

// TestKill kills a writing process 50 times and checks each time that every acknowledged write is there.
func TestKill(t *testing.T) {
	const kills = 50
	dir, r := t.TempDir(), rand.New(rand.NewPCG(5, 5))
	var acked [killWriters]int
	for range kills {
		killOnce(t, dir, 1+r.IntN(60), &acked)
	}
	for w, n := range acked {
		if n < kills/2 {
			t.Errorf("got only %d writes of writer %d in %d runs", n, w, kills)
		}
	}
}

// killOnce starts a writer and kills it after some acknowledgements. It reads the pipe to its end, so that it
// also has the acknowledgements that were printed just before the kill.
func killOnce(t *testing.T, dir string, after int, acked *[killWriters]int) {
	t.Helper()
	child := exec.Command(os.Args[0])
	child.Env = append(os.Environ(), killDirEnv+"="+dir)
	child.Stderr = os.Stderr
	out, err := child.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := child.Start(); err != nil {
		t.Fatal(err)
	}
	lines, acks := bufio.NewReader(out), 0
	for {
		line, err := lines.ReadString('\n')
		if err == io.EOF {
			break // an incomplete last line does not count
		}
		var word string
		var w, n int
		if _, err := fmt.Sscanf(line, "%s %d %d", &word, &w, &n); err != nil {
			t.Fatalf("got line %q: %v", line, err)
		}
		if word == "have" && n < acked[w] {
			t.Errorf("writer %d: got %d after the kill, want at least %d", w, n, acked[w])
		}
		acked[w] = n
		if word == "ack" {
			if acks++; acks == after {
				_ = child.Process.Kill()
			}
		}
	}
	_ = child.Wait() // it was killed
	if acks < after {
		t.Fatalf("the writer ended by itself after %d writes", acks)
	}
}

// tcpStream is a raft.StreamLayer on a socket, like that of auth/port.
type tcpStream struct{ net.Listener }

func (tcpStream) Dial(to raft.ServerAddress, timeout time.Duration) (net.Conn, error) {
	return net.DialTimeout("tcp", string(to), timeout)
}

func TestLoopbackStream(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	cfg := raftstoretest.Config(t.TempDir())
	cfg.Stream = tcpStream{l}
	s, stop := raftstoretest.Start(t, cfg)
	put(t, s, "a", "1")
	if err := stop(); err != nil {
		t.Error(err)
	}
	if _, err := l.Accept(); err == nil {
		t.Error("got a listener that is still open, want it closed with the store")
	}
}
