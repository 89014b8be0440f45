package wal

import (
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"math"
	"os"
	"time"

	"github.com/hashicorp/raft-wal/segment"
	"github.com/hashicorp/raft-wal/types"
)

// raft-wal v0.4.0 does not survive every crash around the end of a segment file:
//
//   - Killed or closed after the write that seals the last file, but before its metadata records the seal, it
//     opens again and then answers every append with "segment is sealed".
//   - The same happens when the sealing write was torn, because it remembers the seal of a write that it has
//     rolled back.
//   - It takes frames behind the last commit as proof that this commit is complete, though they may be left
//     over from an earlier crash.
//
// repairingMeta repairs the last file before raft-wal reads it. What is behind the last complete commit was
// never acknowledged; it is overwritten with zeros. A complete seal is recorded in the metadata, as raft-wal
// would have done.
type repairingMeta struct {
	types.MetaStore
	fs types.VFS
}

// Load implements types.MetaStore: it returns raft-wal's list of segment files. raft-wal calls it before it
// reads the files, so here is the place to repair the last one. If that turns out to be sealed on disk only,
// Load seals it in the list, adds the next file to the list, and stores the list.
func (m repairingMeta) Load(dir string) (types.PersistentState, error) {
	state, err := m.MetaStore.Load(dir)
	if err != nil || len(state.Segments) == 0 {
		return state, err
	}
	last := &state.Segments[len(state.Segments)-1]
	if sealedInList := !last.SealTime.IsZero(); sealedInList {
		return state, nil
	}
	tail, err := repairTail(m.fs, dir, segment.FileName(*last))
	if err != nil {
		return state, err
	}
	if sealedOnDisk := tail.indexStart != 0; !sealedOnDisk {
		return state, nil
	}
	// What follows is what raft-wal does after it has sealed a file.
	last.SealTime = time.Now()
	last.IndexStart = tail.indexStart
	last.MaxIndex = last.BaseIndex + tail.entries - 1
	next := types.SegmentInfo{
		ID:         state.NextSegmentID,
		BaseIndex:  last.MaxIndex + 1,
		MinIndex:   last.MaxIndex + 1,
		SizeLimit:  last.SizeLimit,
		Codec:      last.Codec,
		CreateTime: time.Now(),
	}
	state.NextSegmentID++
	state.Segments = append(state.Segments, next) // raft-wal creates the file when it does not exist
	return state, m.CommitState(state)
}

// logTail is the content of a segment file up to its last complete commit.
type logTail struct {
	end        int64  // length in bytes
	entries    uint64 // number of log entries
	indexStart uint64 // offset of the index of a sealed file; 0 means the file is not sealed
}

// repairTail overwrites everything behind the file's last complete commit with zeros, durably, and returns
// what is before. A file that does not exist is an empty tail and no error. A file that is damaged before its
// last commit is fault Internal, and stays as it is.
func repairTail(fs types.VFS, dir, name string) (logTail, error) {
	f, err := fs.OpenWriter(dir, name)
	if errors.Is(err, os.ErrNotExist) {
		return logTail{}, nil // no entry in it was ever acknowledged
	}
	if err != nil {
		return logTail{}, err
	}
	data, err := io.ReadAll(io.NewSectionReader(f, 0, math.MaxInt64))
	var tail logTail
	if err == nil {
		tail, err = scanTail(data)
	}
	if err == nil {
		err = zeroRest(f, data, tail.end)
	}
	return tail, errors.Join(err, f.Close())
}

// raft-wal's file format (its segment/format.go): a header, then frames, each padded to 8 bytes. A commit
// frame ends a batch of entries; it contains the CRC-32C of all bytes since the commit before it.
const (
	headerBytes      = 32
	frameHeaderBytes = 8
	frameEntry       = 1
	frameIndex       = 2
	frameCommit      = 3
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// scanTail returns what is in the file up to its last complete commit: one whose checksum is right. Only the
// last write before a crash can be torn. If there is a complete commit behind a broken one, acknowledged data
// is damaged: scanTail returns a fault.
func scanTail(data []byte) (logTail, error) {
	var complete, current logTail
	brokenCommit := false // the last commit frame had a wrong checksum
	batchStart := 0       // where the bytes that the next commit covers begin
	for off := headerBytes; off+frameHeaderBytes <= len(data); {
		kind, field := data[off], binary.LittleEndian.Uint32(data[off+4:])
		size := int64(field) // of an entry or an index
		switch kind {
		case frameEntry:
			current.entries++
		case frameIndex:
			current.indexStart = uint64(off) + frameHeaderBytes
		case frameCommit: // its field is a checksum; it has no content
			valid := crc32.Checksum(data[batchStart:off], castagnoli) == field
			size = 0
			if valid && brokenCommit {
				return complete, damagedLogFault()
			}
			batchStart, brokenCommit = off+frameHeaderBytes, !valid
			if valid {
				current.end = int64(batchStart)
				complete = current
			}
		default: // zeros behind the last frame, or a torn write
			return complete, checkRest(data, complete)
		}
		if size > int64(len(data)-off) { // a torn write
			return complete, checkRest(data, complete)
		}
		off += frameHeaderBytes + int(size+7)&^7
	}
	return complete, checkRest(data, complete)
}

// checkRest returns a fault when acknowledged data behind the last complete commit is damaged, and nil when
// there is only a torn write. A torn write is one batch at most. Two commit frames, of which the second has
// the right checksum of the bytes between them, show that a later batch was written whole. What is broken
// before the first was then acknowledged, and must not pass for data that was never written.
//
// The frames there may be unreadable, so checkRest does not follow them: it looks at every place where a
// commit frame could be.
func checkRest(data []byte, complete logTail) error {
	batchStart := 0 // behind the last frame that looks like a commit; 0: there was none
	start := max(int(complete.end), headerBytes)
	for off := start; off+frameHeaderBytes <= len(data); off += frameHeaderBytes {
		looksLikeCommit := data[off] == frameCommit && data[off+1]|data[off+2]|data[off+3] == 0
		if !looksLikeCommit {
			continue
		}
		want := binary.LittleEndian.Uint32(data[off+4:])
		if batchStart > 0 && crc32.Checksum(data[batchStart:off], castagnoli) == want {
			return damagedLogFault()
		}
		batchStart = off + frameHeaderBytes
	}
	return nil
}

// damagedLogFault is the fault of a log file in which acknowledged data is damaged.
func damagedLogFault() error {
	return logDamaged.New("raftstore.Run")
}

// zeroRest overwrites the file behind end with zeros, and syncs it. data is the file's content: blocks that
// are zero already are not written, and if all are, there is no sync.
func zeroRest(f types.WritableFile, data []byte, end int64) error {
	const block = 4096
	var zeros [block]byte
	wrote := false
	for off := end; off < int64(len(data)); off += block {
		part := data[off:min(off+block, int64(len(data)))]
		if string(part) == string(zeros[:len(part)]) {
			continue
		}
		if _, err := f.WriteAt(zeros[:len(part)], off); err != nil {
			return err
		}
		wrote = true
	}
	if !wrote {
		return nil
	}
	return f.Sync()
}
