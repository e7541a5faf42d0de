//go:build 386 || arm || mips || mipsle

package agent

// timexLong is the C long of struct timex.
func timexLong(n int64) int32 { return int32(n) }
