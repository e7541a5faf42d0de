package agent

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"connectrpc.com/connect"

	"github.com/toe-project/toe/control/cardpb"
)

// On a card with zero_trust an installation that its host asks for is an offer, which waits until an
// administrator of the card accepts it. Offer and answer are files of root's folder in memory.
const (
	offerFile   = "offer"
	answerFile  = "offer-answer"
	answerLimit = time.Hour
	accepted    = "accept"
	refused     = "refuse"
)

// offered is what the host offers.
type offered struct {
	// ID binds an answer to what the administrator has seen: the host can offer another bundle after it.
	ID        string `json:"id"`
	Bundle    string `json:"bundle"`
	Downgrade bool   `json:"allow_downgrade"`
}

// await waits for the answer of an administrator.
func (p *installPart) await(
	ctx context.Context, q *cardpb.InstallRequest, say func(percent uint32, step string),
) error {
	id := rand.Text()[:6]
	text, err := json.Marshal(offered{id, nameOfBundle(q), q.AllowDowngrade})
	if err != nil {
		return err
	}
	offer, answer := filepath.Join(p.answers, offerFile), filepath.Join(p.answers, answerFile)
	_ = os.Remove(answer)
	if err := os.WriteFile(offer, text, 0o600); err != nil {
		return err
	}
	defer func() { _ = errors.Join(os.Remove(offer), os.Remove(answer)) }()
	p.log.Sayf("install: %s is offered; `toe-agent offer` shows it", nameOfBundle(q))
	say(0, "Waiting for an administrator of the card: `toe-agent offer` there shows the offer")
	ctx, cancel := context.WithTimeout(ctx, answerLimit)
	defer cancel()
	for {
		switch word, _ := os.ReadFile(answer); strings.TrimSpace(string(word)) {
		case accepted + " " + id:
			return nil
		case refused:
			return connect.NewError(connect.CodeFailedPrecondition,
				errors.New("zero_trust: an administrator of the card refused the offer; nothing was changed"))
		}
		select {
		case <-ctx.Done():
			return connect.NewError(connect.CodeFailedPrecondition,
				fmt.Errorf("zero_trust: no administrator of the card has accepted the offer: %w; nothing was changed", ctx.Err()))
		case <-time.After(200 * time.Millisecond):
		}
	}
}

// AnswerOffer is `toe-agent offer [accept ID|refuse]`, for an administrator of the card.
func AnswerOffer(word string, out io.Writer) error { return answerOffer(runDir, word, out) }

func answerOffer(dir, word string, out io.Writer) error {
	text, err := os.ReadFile(filepath.Join(dir, offerFile))
	if errors.Is(err, fs.ErrNotExist) {
		return errors.New("no offer waits")
	}
	var o offered
	if err == nil {
		err = json.Unmarshal(text, &o)
	}
	if err != nil {
		return fmt.Errorf("offer: %w", err)
	}
	older := ""
	if o.Downgrade {
		older = ", also an older version"
	}
	switch word {
	case "":
		_, err = fmt.Fprintf(out, "%s%s; `toe-agent offer accept %s` or `toe-agent offer refuse`\n", o.Bundle, older, o.ID)
		return err
	case accepted + " " + o.ID, refused:
		return os.WriteFile(filepath.Join(dir, answerFile), []byte(word+"\n"), 0o600)
	}
	return fmt.Errorf("offer %q: want refuse, or accept with the ID of the offer that `toe-agent offer` shows", word)
}

// EndZeroTrust is `toe-agent zero-trust off`. It is in force after a restart.
func EndZeroTrust() error { return trust{trustDir, openBootEnv}.end() }
