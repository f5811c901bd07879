//! The trip of a request that is all there, to a server without TLS: it is written whole, and its answer passed on as it
//! comes.
//!
//! Decides which trips go this way, and carries them by the same steps (`trip`) as the framework does the others. The
//! framework has two futures for a trip, with two channels between them, each of which stops where the other goes on; where
//! nothing of the request is to come any more, one does.

use std::time::Instant;

use futures_util::FutureExt;
use http::{Method, StatusCode, Version, header};
use pingora::{
    Error, ErrorType,
    http::ResponseHeader,
    protocols::http::{HttpTask, v1::client::HttpSession as Server},
    proxy::Session,
};
use tokio::task::unconstrained;

use super::{
    journey::{Journey, Underway},
    line::Line,
    tries,
};
use crate::dial::{loan::Loan, wire::WRITE, within};

/// Pieces of an answer that go to the client at once.
const TOGETHER: usize = 4;

impl Underway {
    /// Whether it goes this way, whichever of its addresses it is tried at.
    fn passes(&self) -> bool {
        self.cargo.is_at_hand() && self.trip.is_plain()
    }
}

/// Makes the trip, and passes its answer on. False where the framework is to do so.
pub async fn pass(session: &mut Session, journey: &mut Journey) -> pingora::Result<bool> {
    if !journey.underway().is_some_and(|underway| underway.passes()) {
        return Ok(false);
    }
    let mut left = tries::MOST;
    loop {
        left -= 1;
        match make_try(session, journey).await {
            Err(error) if error.retry() && left > 0 => {}
            made => return made.map(|()| true),
        }
    }
}

async fn make_try(session: &mut Session, journey: &mut Journey) -> pingora::Result<()> {
    let loan = journey.next_loan(session).await?;
    let lent = match loan.lent().await {
        Ok(lent) => lent,
        Err(error) => return Err(journey.not_connected(error.into_up())),
    };
    let mut server = Server::new(lent);
    match exchange(session, journey, &mut server, &loan).await {
        Ok(true) => loan.take_back(server).await,
        Ok(false) => {}
        Err(error) => {
            drop(server);
            return Err(journey.broke_off(session, error));
        }
    }
    Ok(())
}

/// Sends the request and passes the answer on. Whether its connection may serve again.
async fn exchange(
    session: &mut Session,
    journey: &mut Journey,
    server: &mut Server,
    loan: &Loan,
) -> pingora::Result<bool> {
    journey.connected(session, loan.is_reused())?;
    let request = journey.request(session, Version::HTTP_11)?;
    server.write_request_header(Box::new(request)).await.map_err(Error::into_up)?;
    let mut body = session.as_ref().get_retry_buffer();
    journey.hand_over(session, &mut body, true).await?;
    let sending = async {
        if let Some(body) = body {
            server.write_body(&body).await?;
        }
        server.finish_body().await
    };
    let overdue = |_| Error::e_explain(ErrorType::WriteTimedout, "the server takes no more of the request");
    let sent = while_there_is_a_client(session, within(WRITE, sending)).await?.unwrap_or_else(overdue);
    let Err(unsent) = sent else { return answer(session, journey, server, None).await };
    if loan.is_reused() && !loan.has_sent() {
        // The end of an idle connection: what it may have said before is not for this request.
        return Err(unsent.into_up());
    }
    // It may have said why it takes no more.
    answer(session, journey, server, Some(unsent)).await.map(|_| false)
}

/// Passes the answer on. True: the server has said all of it. Where it breaks off, that is told by the error that came
/// first.
async fn answer(
    session: &mut Session,
    journey: &mut Journey,
    server: &mut Server,
    mut first_error: Option<Box<Error>>,
) -> pingora::Result<bool> {
    let mut next = while_there_is_a_client(session, server.read_response_task()).await?;
    loop {
        let (mut tasks, mut is_whole) = (Vec::with_capacity(TOGETHER), false);
        loop {
            let task = next.map_err(|error| first_error.take().unwrap_or(error).into_up());
            is_whole |= take(&mut tasks, task.unwrap_or_else(HttpTask::Failed), session, journey)?;
            if is_whole || tasks.len() == TOGETHER {
                break;
            }
            match unconstrained(server.read_response_task()).now_or_never() {
                Some(more) => next = more,
                None => break,
            }
        }
        let is_over = session.as_downstream_mut().response_duplex_vec(tasks).await?;
        if is_over || is_whole {
            return Ok(is_whole);
        }
        // What comes all the time leaves no other moment for this.
        tokio::task::consume_budget().await;
        refuse_overdue()?;
        next = while_there_is_a_client(session, server.read_response_task()).await?;
    }
}

fn refuse_overdue() -> pingora::Result<()> {
    let Some(line) = Line::current() else { return Ok(()) };
    if line.answer_due().is_none_or(|due| Instant::now() < due) {
        return Ok(());
    }
    line.note_overdue();
    Err(Error::explain(ErrorType::ReadTimedout, "the answer is overdue").into_up())
}

/// Takes what the server said next. Whether nothing is to come.
fn take(
    tasks: &mut Vec<HttpTask>,
    mut task: HttpTask,
    session: &mut Session,
    journey: &mut Journey,
) -> pingora::Result<bool> {
    match &mut task {
        HttpTask::Header(header, is_end) => {
            frame(header, *is_end, session)?;
            journey.answer_head(session, header)?;
        }
        HttpTask::Body(body, is_end) => journey.answer_piece(session, body, *is_end)?,
        HttpTask::UpgradedBody(..) | HttpTask::Trailer(_) | HttpTask::Done | HttpTask::Failed(_) => {}
    }
    let is_whole = task.is_end();
    tasks.push(task);
    Ok(is_whole)
}

/// Has an answer end by a last chunk whose end is that of its connection.
fn frame(header: &mut ResponseHeader, is_end: bool, session: &Session) -> pingora::Result<()> {
    let is_bodiless = is_end
        || session.req_header().method == Method::HEAD
        || matches!(header.status, StatusCode::NO_CONTENT | StatusCode::NOT_MODIFIED)
        || header.status.is_informational();
    let headers = &header.headers;
    if !is_bodiless
        && !headers.contains_key(header::TRANSFER_ENCODING)
        && !headers.contains_key(header::CONTENT_LENGTH)
    {
        header.set_version(Version::HTTP_11);
        header.insert_header(header::TRANSFER_ENCODING, "chunked")?;
    }
    Ok(())
}

/// What comes of `work`, unless the client leaves before.
async fn while_there_is_a_client<T>(
    session: &mut Session,
    work: impl Future<Output = T>,
) -> pingora::Result<T> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        left = session.as_downstream_mut().read_body_or_idle(true) => match left {
            Err(error) => Err(error.into_down()),
            Ok(_) => Err(Error::explain(ErrorType::ConnectionClosed, "the client has left").into_down()),
        },
    }
}

#[cfg(test)]
mod tests {
    use std::{sync::Arc, time::Duration};

    use tokio::io::{AsyncWriteExt, duplex};

    use super::*;
    use crate::gateway::{seats::Forsaken, tests::gateway};

    #[tokio::test]
    async fn an_answer_of_which_there_is_always_more_is_overdue_in_time_and_leaves_others_their_turn() {
        const HEAD: &[u8] = b"HTTP/1.1 103 Early Hints\r\n\r\n";
        // More than is read in the time.
        const HEADS: usize = 1 << 20;
        let (mut client, near) = duplex(1024);
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        let mut session = Session::new_h1(Box::new(near));
        assert!(session.read_request().await.unwrap());
        session.as_downstream_mut().set_ignore_info_resp(true);
        let (mut flood, near) = duplex(HEADS * HEAD.len());
        flood.write_all(&HEAD.repeat(HEADS)).await.unwrap();
        let mut server = Server::new(Box::new(near));
        let mut journey = Journey::begin(gateway().now());
        let line = Line::new(Duration::from_secs(60), None, Forsaken { seats: Arc::default(), most: 1 });
        line.expect_answer(Duration::from_millis(200));
        let (began, mut turns) = (Instant::now(), 0);
        let answered = line.scope(answer(&mut session, &mut journey, &mut server, None));
        let others = async {
            loop {
                turns += 1;
                tokio::task::yield_now().await;
            }
        };
        let answered = tokio::select! {
            answered = answered => answered,
            () = others => unreachable!("it goes on for ever"),
        };
        assert!(answered.is_err() && line.is_answer_overdue());
        assert!(began.elapsed() < Duration::from_secs(2), "{:?}", began.elapsed());
        assert!(turns > 1, "nobody else had a turn");
    }
}
