package forward

import (
	"io"
	"sync"

	"golang.org/x/crypto/ssh"
)

// pieces are buffers of the size of SSH's packets: a browser behind -D opens and closes many connections.
var pieces = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// end is one side of a forwarded connection.
type end interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Pipe joins a connection on this machine with a channel until both have said all, or the channel is closed.
// It closes both.
func Pipe(conn end, ch ssh.Channel, reqs <-chan *ssh.Request) {
	var up, down, both sync.WaitGroup
	up.Go(func() { move(ch, conn) })
	down.Go(func() { move(conn, ch) })
	both.Go(func() { up.Wait(); down.Wait(); _ = ch.Close() })
	for r := range reqs { // until the channel is closed
		_ = r.Reply(false, nil)
	}
	down.Wait() // what the node has sent before is still to be written
	_ = conn.Close()
	both.Wait()
}

// move copies to the end of from, tells to of it, and closes both on an error: half a stream is worth
// nothing.
func move(to, from end) {
	b := pieces.Get().(*[]byte)
	defer pieces.Put(b)
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *b)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		_ = to.Close()
		_ = from.Close()
	}
}
