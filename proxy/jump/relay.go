package jump

import (
	"context"
	"io"
	"sync"
	"time"

	"github.com/threshold-access/threshold/internal/coalesce"
	"github.com/threshold-access/threshold/internal/fault"
)

const (
	// One read from a client's TLS connection returns one record of at most 16 KiB. One read from a tunnel
	// returns all that has come, and an SSH packet of full size takes three records.
	clientBufferBytes = 16 << 10
	nodeBufferBytes   = 48 << 10
	// clientLinger is how long the client may go on sending after the node's stream has ended. SSH is over
	// then, and only the client's last packets are still on their way.
	clientLinger = 5 * time.Second
)

var (
	clientBuffers = sync.Pool{New: func() any { b := make([]byte, clientBufferBytes); return &b }}
	nodeBuffers   = sync.Pool{New: func() any { b := make([]byte, nodeBufferBytes); return &b }}
)

// halfCloser is a connection that relay can copy to: a TLS connection, an SSH channel or a tunnel stream.
type halfCloser interface {
	io.ReadWriteCloser
	CloseWrite() error
}

// relay copies bytes between client and node until both directions have ended, one has failed, or ctx ends.
// When the node's direction ends, the client's gets clientLinger more. relay closes both connections and
// waits for its goroutines. The error is the fault of a node that cannot serve the stream, for the log: the
// client has been told already that the proxy connects it.
func relay(ctx context.Context, client, node io.ReadWriteCloser) (refusal error) {
	closeBoth := sync.OnceFunc(func() { client.Close(); node.Close() })
	defer closeBoth()
	stop := context.AfterFunc(ctx, closeBoth)
	defer stop()
	var both sync.WaitGroup
	both.Go(func() { _ = copyOneWay(node, client, &clientBuffers, closeBoth) })
	var linger *time.Timer // set by the goroutine below, read after both.Wait, as is refusal
	both.Go(func() {
		err := copyOneWay(client, node, &nodeBuffers, closeBoth)
		if fault.CodeOf(err) != "" {
			refusal = err
		}
		linger = time.AfterFunc(clientLinger, closeBoth)
	})
	both.Wait()
	linger.Stop()
	return refusal
}

// copyOneWay copies from src to dst until src ends, and then closes the sending half of dst, so that the peer
// reads the end of file. If copying or closing fails it calls closeBoth, which ends the other direction too.
// It returns the error of copying.
func copyOneWay(dst io.Writer, src io.Reader, buffers *sync.Pool, closeBoth func()) error {
	buf := buffers.Get().(*[]byte)
	defer buffers.Put(buf)
	_, err := io.CopyBuffer(coalesce.Writer(dst), src, *buf)
	half, ok := dst.(halfCloser)
	if err != nil || !ok || half.CloseWrite() != nil {
		closeBoth()
	}
	return err
}
