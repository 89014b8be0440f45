package forward

import (
	"io"
	"sync"

	"golang.org/x/crypto/ssh"
)

// buffers has buffers of the size of SSH packets. They are reused, because a browser behind -D opens and
// closes many connections.
var buffers = sync.Pool{New: func() any { b := make([]byte, 32<<10); return &b }}

// stream is one side of a forwarded connection.
type stream interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// Pipe copies between a connection on this machine and a channel until both have sent everything or the
// channel is closed. It closes both.
func Pipe(conn stream, ch ssh.Channel, reqs <-chan *ssh.Request) {
	var up, down, both sync.WaitGroup
	up.Go(func() { copyHalf(ch, conn) })
	down.Go(func() { copyHalf(conn, ch) })
	both.Go(func() { up.Wait(); down.Wait(); _ = ch.Close() })
	for r := range reqs { // until the channel is closed
		_ = r.Reply(false, nil)
	}
	down.Wait() // data that the node sent before it closed the channel is still to be written
	_ = conn.Close()
	both.Wait()
}

// copyHalf copies one direction to its end and half-closes to. On an error it closes both sides, so that no
// program takes an incomplete stream for a complete one.
func copyHalf(to, from stream) {
	b := buffers.Get().(*[]byte)
	defer buffers.Put(b)
	_, err := io.CopyBuffer(struct{ io.Writer }{to}, struct{ io.Reader }{from}, *b)
	if err == nil {
		err = to.CloseWrite()
	}
	if err != nil {
		_ = to.Close()
		_ = from.Close()
	}
}
