package jump

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/gather"
)

const (
	// A read from a client's TLS connection gives one record; the tunnel gives as much as has come, and a packet of SSH takes three.
	fromClient = 16 << 10
	fromNode   = 48 << 10
	// linger is how long the client may go on sending after the node has ended: SSH is over then, and only its last words are under way.
	linger = 5 * time.Second
)

var (
	clientBuffers = sync.Pool{New: func() any { b := make([]byte, fromClient); return &b }}
	nodeBuffers   = sync.Pool{New: func() any { b := make([]byte, fromNode); return &b }}
)

// end is one end of a relay: a TLS connection, an SSH channel or a tunnel stream.
type end interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// relay copies both ways until both have ended, an error ends both, or ctx does. It closes both.
func relay(ctx context.Context, client, node io.ReadWriteCloser) {
	closeBoth := sync.OnceFunc(func() { client.Close(); node.Close() })
	defer closeBoth()
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { pass(node, client, &clientBuffers, closeBoth) })
	var late *time.Timer // read after both have ended
	both.Go(func() {
		pass(client, node, &nodeBuffers, closeBoth)
		late = time.AfterFunc(linger, closeBoth)
	})
	both.Wait()
	late.Stop()
}

// pass copies until src ends and tells dst so; when that is not possible, both are closed.
func pass(dst io.Writer, src io.Reader, buffers *sync.Pool, closeBoth func()) {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, err := io.CopyBuffer(gather.Writer(dst), src, *buf)
	half, ok := dst.(end)
	if err != nil || !ok || half.CloseWrite() != nil {
		closeBoth()
	}
}
