//! `POST /v1/join`: one JSON object a line, each when its step is done.

use std::{convert::Infallible, sync::Arc};

use axum::{
    body::{Body, Bytes},
    extract::{Request, State},
    http::header,
    response::{IntoResponse, Response},
};
use tokio::sync::mpsc;
use tokio_stream::{StreamExt as _, wrappers::ReceiverStream};

use super::{
    Parts,
    api::{JoinStep, JoinWish, schema},
    refusal::{self, Refused},
};
use crate::model::{
    code::{Code, Problem},
    limits::JOIN_STEPS_QUEUE_MAX,
};

/// Answers at once, then tells the steps. The join goes on when the client goes away.
pub(super) async fn join(State(parts): State<Arc<Parts>>, request: Request) -> Result<Response, Refused> {
    let wish: JoinWish = refusal::body(request).await?;
    let (tell, steps) = mpsc::channel(JOIN_STEPS_QUEUE_MAX);
    let (write, lines) = mpsc::channel(JOIN_STEPS_QUEUE_MAX);
    parts.tasks.spawn_transient("join", (parts.join)(wish, tell));
    parts.tasks.spawn_transient("join steps", forward(steps, write));
    let body = Body::from_stream(ReceiverStream::new(lines).map(Ok::<_, Infallible>));
    Ok(([(header::CONTENT_TYPE, "application/x-ndjson")], body).into_response())
}

/// Writes steps as lines, and sees to it that the last one tells how it ended.
async fn forward(mut steps: mpsc::Receiver<JoinStep>, lines: mpsc::Sender<Bytes>) {
    while let Some(step) = steps.recv().await {
        let last = step.problem.is_some() || step.step == "done";
        if lines.send(line(&step)).await.is_err() || last {
            return;
        }
    }
    let problem = Problem::new(Code::PART_FAILED, "the join broke off without telling why")
        .with_fix("look at `tombolo peers`; the same token may be used again by this cluster");
    let step = JoinStep {
        schema: schema("join"),
        step: "failed".to_owned(),
        text: problem.message.clone(),
        peer: None,
        problem: Some(problem),
    };
    // Nobody may hear it any more.
    let _ = lines.send(line(&step)).await;
}

fn line(step: &JoinStep) -> Bytes {
    let mut line = serde_json::to_vec(step).expect("a step is plain data");
    line.push(b'\n');
    line.into()
}
