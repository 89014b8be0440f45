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

// Pipe copies between a connection on this machine and a channel of the node until both sides have ended
// their output, or the channel is closed. Then it closes both and returns. reqs are the requests on the
// channel, which it refuses.
func Pipe(conn stream, ch ssh.Channel, reqs <-chan *ssh.Request) {
	var toNode, fromNode, closing sync.WaitGroup
	toNode.Go(func() { copyHalf(ch, conn) })
	fromNode.Go(func() { copyHalf(conn, ch) })
	closing.Go(func() { toNode.Wait(); fromNode.Wait(); _ = ch.Close() })
	for request := range reqs { // ends when the channel is closed, by either side
		_ = request.Reply(false, nil)
	}
	fromNode.Wait() // data that the node sent before it closed the channel is still to be written
	_ = conn.Close()
	closing.Wait()
}

// copyHalf copies from one side to the other until from ends, and then half-closes to. On an error it closes
// both sides instead, so that no program takes an incomplete stream for a complete one.
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
